#include <algorithm>
#include <map>
#include <numeric>

#include "visq/core/text.h"
#include "visq/pipeline/mixed_precision.h"
#include "visq/pipeline/pareto_plot.h"

namespace visq {
namespace {

constexpr size_t kShownUnits = 5, kShownPoints = 12;

/// What a format, or what is left as it is, has of a mix.
struct Share {
  std::string name = {};
  size_t units = 0;
  int64_t weights = 0;
  uint64_t bytes = 0;
  double kl = 0;
  std::map<UnitKind, size_t> kinds = {};
};

/// Of each format, then of what is left.
std::vector<Share> shares_of(const SearchSpace& space, const Mix& mix) {
  std::vector<Share> shares;
  for (const Recipe& format : space.formats) shares.push_back({.name = format.name});
  shares.push_back({.name = "as is"});
  for (size_t u = 0; u < space.units.size(); ++u) {
    const Unit& unit = space.units[u];
    const auto choice = mix.choices[u];
    Share& share = choice ? shares[unit.choices[*choice].format] : shares.back();
    ++share.units;
    ++share.kinds[unit.kind];
    share.weights += unit.weights;
    share.bytes += choice ? unit.choices[*choice].bytes : unit.bytes;
    share.kl += mix.scores[u];
  }
  return shares;
}

double bits(uint64_t bytes, int64_t weights) {
  return weights > 0 ? 8 * static_cast<double>(bytes) / static_cast<double>(weights) : 0;
}

std::string format_name(const SearchSpace& space, const Mix& mix, size_t unit) {
  const auto choice = mix.choices[unit];
  return choice ? space.formats[space.units[unit].choices[*choice].format].name : "as is";
}

/// Of so many, some that are evenly spread, first and last among them.
std::vector<size_t> spread(size_t count, size_t most) {
  std::vector<size_t> places(std::min(count, most));
  for (size_t i = 0; i < places.size(); ++i)
    places[i] = places.size() < 2 ? 0 : i * (count - 1) / (places.size() - 1);
  return places;
}

}  // namespace

Json mix_json(const SearchSpace& space, const Scores& scores, const Budget& budget, const Mix& mix) {
  Json json;
  if (budget.bits) json["budget"]["bits"] = *budget.bits;
  if (budget.bytes) json["budget"]["bytes"] = *budget.bytes;
  if (budget.kl) json["budget"]["kl"] = *budget.kl;
  json["bits"] = bits_per_weight(space, mix.bytes);
  json["bytes"] = space.other_bytes + mix.bytes;
  json["predicted_kl"] = mix.kl;
  json["proven_bound"] = mix.bound;
  json["score"] = {{"kind", score_kind_name(scores.kind)},
                   {"samples", scores.samples},
                   {"text_tokens", scores.text_tokens},
                   {"image_tokens", scores.image_tokens},
                   {"answer_tokens", scores.answer_tokens}};
  for (const Share& share : shares_of(space, mix))
    json["formats"].push_back({{"format", share.name},
                               {"units", share.units},
                               {"weights", share.weights},
                               {"bytes", share.bytes},
                               {"predicted_kl", share.kl}});
  for (size_t u = 0; u < space.units.size(); ++u)
    json["units"].push_back({{"layer", space.units[u].layer},
                             {"unit", unit_name(space.units[u].kind)},
                             {"format", format_name(space, mix, u)},
                             {"predicted_kl", mix.scores[u]}});
  const std::vector<Mix> uniform = uniform_mixes(space, scores);
  for (size_t format = 0; format < uniform.size(); ++format)
    json["uniform"].push_back({{"format", space.formats[format].name},
                               {"bits", bits_per_weight(space, uniform[format].bytes)},
                               {"bytes", space.other_bytes + uniform[format].bytes},
                               {"predicted_kl", uniform[format].kl}});
  for (const Mix& point : pareto_mixes(space, scores))
    json["pareto"].push_back({{"bits", bits_per_weight(space, point.bytes)},
                              {"bytes", space.other_bytes + point.bytes},
                              {"predicted_kl", point.kl}});
  return json;
}

std::string describe_mix(const SearchSpace& space, const Scores& scores, const Budget& budget,
                         const Mix& mix) {
  const double found = budget.kl ? static_cast<double>(mix.bytes) : mix.kl;
  std::string text = visq::format(
      "mixed precision: {:.4f} bits a weight, {} in all, predicted KL {:.3g}; {}\n"
      "scores: {} of {} samples ({} text and {} image tokens, {} of answers)\n\n",
      bits_per_weight(space, mix.bytes), human_bytes(space.other_bytes + mix.bytes), mix.kl,
      mix.bound < (1 - 1e-9) * found
          ? visq::format("at most {:.2g} % from the best", 100 * (found / mix.bound - 1))
          : std::string("the best there is"),
      score_kind_name(scores.kind), scores.samples, scores.text_tokens, scores.image_tokens,
      scores.answer_tokens);

  std::vector<std::vector<std::string>> table = {
      {"format", "units", "bits", "size", "predicted KL", "of which"}};
  for (const Share& share : shares_of(space, mix)) {
    std::string kinds;
    for (const auto& [kind, count] : share.kinds)
      kinds += visq::format("{}{} {}", kinds.empty() ? "" : ", ", count, unit_name(kind));
    table.push_back({share.name, std::to_string(share.units),
                     visq::format("{:.3g}", bits(share.bytes, share.weights)), human_bytes(share.bytes),
                     mix.kl > 0 ? visq::format("{:.3g} ({:.0f} %)", share.kl, 100 * share.kl / mix.kl) : "0",
                     kinds});
  }
  text += format_table(table, {1, 2, 3, 4}) + "\n";

  std::vector<size_t> order(space.units.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater{}, [&](size_t u) { return mix.scores[u]; });
  table = {{"most sensitive", "layer", "format", "predicted KL"}};
  for (size_t i = 0; i < std::min(order.size(), kShownUnits); ++i)
    table.push_back({unit_name(space.units[order[i]].kind), std::to_string(space.units[order[i]].layer),
                     format_name(space, mix, order[i]), visq::format("{:.3g}", mix.scores[order[i]])});
  text += format_table(table, {1, 3}) + "\n";

  const std::vector<Mix> points = pareto_mixes(space, scores), uniform = uniform_mixes(space, scores);
  table = {{"best mixes", "bits", "size", "predicted KL"}};
  const auto add = [&](const std::string& name, const Mix& point) {
    table.push_back({name, visq::format("{:.3f}", bits_per_weight(space, point.bytes)),
                     human_bytes(space.other_bytes + point.bytes), visq::format("{:.3g}", point.kl)});
  };
  for (const size_t i : spread(points.size(), kShownPoints)) add("", points[i]);
  for (size_t format = 0; format < uniform.size(); ++format)
    add("all " + space.formats[format].name, uniform[format]);
  return text + format_table(table, {1, 2, 3}) + "\n";
}

std::string plot_mix(const SearchSpace& space, const Scores& scores, const Mix& mix) {
  const auto point = [&](const Mix& of, const std::string& label) {
    return PlotPoint{bits_per_weight(space, of.bytes), of.kl, label};
  };
  std::vector<PlotPoint> curve,
      marked = {point(mix, visq::format("this mix: {:.2f} bits", bits_per_weight(space, mix.bytes)))};
  for (const Mix& best : pareto_mixes(space, scores)) curve.push_back(point(best, ""));
  const std::vector<Mix> uniform = uniform_mixes(space, scores);
  for (size_t format = 0; format < uniform.size(); ++format)
    marked.push_back(point(uniform[format], "all " + space.formats[format].name));
  std::string title = "Mixed precision of";
  for (size_t format = 0; format < uniform.size(); ++format)
    title += (format == 0 ? " " : ", ") + space.formats[format].name;
  return pareto_svg(title, curve, marked);
}

}  // namespace visq
