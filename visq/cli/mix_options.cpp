#include "visq/cli/mix_options.h"

#include <fstream>
#include <utility>

#include "visq/core/error.h"
#include "visq/core/text.h"
#include "visq/pipeline/scores_file.h"

namespace visq {

void MixArguments::add_to(Command& command) {
  CommandOption of_bits = command.add_option("--bits", bits,
                                             "mixes the formats, and 16 bits, in one checkpoint: the least "
                                             "predicted KL divergence with so many bits "
                                             "a weight of the quantizable linears, scales included");
  of_bits.positive();
  CommandOption of_size =
      command.add_option("--size", size, "the same with so many bytes in all, such as 4.5GB");
  CommandOption of_kl =
      command.add_option("--kl", kl, "the same with the fewest bytes of such a predicted KL divergence");
  of_kl.positive();
  of_bits.excludes(of_size).excludes(of_kl);
  of_size.excludes(of_kl);
  CommandOption of_scores = command.add_option(
      "--scores", scores, "file of --save-scores: chooses for another budget without running the model");
  of_scores.excludes(
      command
          .add_option("--score", score,
                      "what formats are mixed by: kl (measured), fisher (predicted from gradients)")
          .show_default());
  of_scores.excludes(
      command.add_option("--score-samples", score_samples, "most samples to score formats with")
          .show_default()
          .positive());
  of_scores.excludes(command.add_option("--save-scores", save_scores,
                                        "file that takes down the scores of this run, for --scores"));
  command.add_option("--plot", plot, "SVG file of bits against predicted KL divergence");
}

bool MixArguments::given() const {
  if (!name().empty()) return true;
  for (const auto& [option, value] :
       {std::pair{"--scores", &scores}, {"--save-scores", &save_scores}, {"--plot", &plot}})
    if (!value->empty()) fail("{}: goes with a budget: --bits, --size or --kl", option);
  return false;
}

std::string MixArguments::name() const {
  return bits > 0 ? "--bits" : !size.empty() ? "--size" : kl > 0 ? "--kl" : "";
}

Budget MixArguments::budget() const {
  Budget budget;
  if (bits > 0) budget.bits = bits;
  if (!size.empty()) budget.bytes = parse_bytes(size, "--size");
  if (kl > 0) budget.kl = kl;
  return budget;
}

QuantizeOptions MixArguments::search(const Model& model, QuantizeOptions options, bool print) const {
  const Budget limit = budget();
  if (scores.empty() && !options.calibration)
    fail(
        "{}: formats are mixed by what they do to answers; give --calib FILE with samples that have images "
        "and "
        "answers, or --scores FILE of an earlier run",
        name());
  const ScoreKind kind = parse_score_kind(score);
  const SearchSpace space = make_search_space(model, options);
  Scores found;
  if (scores.empty()) {
    found = measure_scores(model, space, {kind, score_samples, *options.calibration});
    if (!save_scores.empty()) visq::save_scores(save_scores, model, space, found);
  } else {
    found = load_scores(scores, model, space);
  }
  const Mix mix = choose_mix(space, found, limit);
  if (print) visq::print("{}", describe_mix(space, found, limit, mix));
  if (!plot.empty()) {
    std::ofstream stream(plot, std::ios::binary);
    stream << plot_mix(space, found, mix);
    if (!stream.flush()) fail("{}: cannot be written", plot);
  }
  options.mix = mix_json(space, found, limit, mix);
  options.recipes = {recipe_of(space, mix)};
  options.layout.layout = space.layout->name();
  options.kv_cache = space.kv_cache;
  return options;
}

}  // namespace visq
