#include "visq/pipeline/scores_file.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

#include "visq/core/error.h"
#include "visq/core/json.h"
#include "visq/pipeline/fingerprint.h"

namespace visq {
namespace {

constexpr int64_t kVersion = 1;

double read_score(const Json& json, const std::string& key, const std::string& origin) {
  const auto value = require<double>(json, key, origin);
  if (!(value >= 0 && std::isfinite(value))) fail("{}: '{}' is {}, no divergence", origin, key, value);
  return value;
}

/// A choice of a unit, as in the file.
struct Entry {
  int64_t bytes = 0;
  ChoiceScore score;
};
/// By layer, unit and format.
using Entries = std::map<std::tuple<int64_t, std::string, std::string>, Entry>;

Entries read_units(const Json& json, const std::string& origin) {
  Entries entries;
  for (const Json& unit : require<std::vector<Json>>(json, "units", origin)) {
    const int64_t layer = require_count(unit, "layer", origin);
    const auto name = require<std::string>(unit, "unit", origin);
    for (const Json& choice : require<std::vector<Json>>(unit, "choices", origin)) {
      const auto format = require<std::string>(choice, "format", origin);
      const Entry entry{require_count(choice, "bytes", origin),
                        {read_score(choice, "kl", origin), read_score(choice, "kl_alone", origin)}};
      if (!entries.emplace(std::tuple{layer, name, format}, entry).second)
        fail("{}: 'units' has {} of layer {} in {} twice", origin, name, layer, format);
    }
  }
  return entries;
}

/// Refuses formats that the scores are not of.
void check_formats(const Json& json, const SearchSpace& space, const std::string& origin) {
  std::map<std::string, std::string> known;
  std::string names;
  for (const Json& format : require<std::vector<Json>>(json, "formats", origin)) {
    const auto name = require<std::string>(format, "name", origin);
    known[name] = require<std::string>(format, "recipe", origin);
    names += (names.empty() ? "" : ", ") + name;
  }
  for (const Recipe& format : space.formats) {
    const auto found = known.find(format.name);
    if (found == known.end()) fail("{}: has no scores of --format {}, but of {}", origin, format.name, names);
    if (found->second != recipe_text(format))
      fail("{}: its scores are of another recipe '{}' than the one of this run: score again", origin,
           format.name);
  }
}

}  // namespace

void save_scores(const std::filesystem::path& file, const Model& model, const SearchSpace& space,
                 const Scores& scores) {
  Json json = {{"scores_version", kVersion},
               {"visq_version", VISQ_VERSION},
               {"fingerprint", fingerprint(model.checkpoint())},
               {"merged_adapter", model.merged_adapter_name()},
               {"layout", space.layout->name()},
               {"score", score_kind_name(scores.kind)},
               {"samples", scores.samples},
               {"text_tokens", scores.text_tokens},
               {"image_tokens", scores.image_tokens},
               {"answer_tokens", scores.answer_tokens},
               {"formats", Json::array()},
               {"units", Json::array()}};
  for (const Recipe& format : space.formats)
    json["formats"].push_back({{"name", format.name}, {"recipe", recipe_text(format)}});
  for (size_t u = 0; u < space.units.size(); ++u) {
    const Unit& unit = space.units[u];
    Json choices = Json::array();
    for (size_t c = 0; c < unit.choices.size(); ++c)
      choices.push_back({{"format", space.formats[unit.choices[c].format].name},
                         {"bytes", unit.choices[c].bytes},
                         {"kl", scores.of[u][c].together},
                         {"kl_alone", scores.of[u][c].alone}});
    json["units"].push_back(
        {{"layer", unit.layer}, {"unit", unit_name(unit.kind)}, {"choices", std::move(choices)}});
  }
  std::ofstream stream(file, std::ios::binary);
  stream << json_text(json, 1) << "\n";
  if (!stream.flush()) fail("{}: cannot be written", file.string());
}

Scores load_scores(const std::filesystem::path& file, const Model& model, const SearchSpace& space) {
  const std::string origin = file.string();
  const Json json = read_json(file);
  if (!json.is_object() || !json.contains("scores_version"))
    fail("{}: holds no scores (visq quantize --save-scores writes them)", origin);
  if (const auto version = require<int64_t>(json, "scores_version", origin); version != kVersion)
    fail("{}: scores of version {}, but this program reads version {}: score again", origin, version,
         kVersion);
  if (require<std::string>(json, "fingerprint", origin) != fingerprint(model.checkpoint()) ||
      require<std::string>(json, "merged_adapter", origin) != model.merged_adapter_name())
    fail("{}: scores of another model than {}, or of one with another adapter in its weights: score again",
         origin, model.checkpoint().directory().string());
  if (const auto layout = require<std::string>(json, "layout", origin); layout != space.layout->name())
    fail("{}: scores for the {} layout, but this run writes {}: score again, or say --layout {}", origin,
         layout, space.layout->name(), layout);
  check_formats(json, space, origin);

  Scores scores;
  scores.kind = parse_score_kind(require<std::string>(json, "score", origin));
  scores.samples = require_count(json, "samples", origin);
  scores.text_tokens = require_count(json, "text_tokens", origin);
  scores.image_tokens = require_count(json, "image_tokens", origin);
  scores.answer_tokens = require_count(json, "answer_tokens", origin);
  const Entries entries = read_units(json, origin);
  for (const Unit& unit : space.units) {
    scores.of.emplace_back();
    for (const UnitChoice& choice : unit.choices) {
      const std::string& format = space.formats[choice.format].name;
      const auto found = entries.find({unit.layer, unit_name(unit.kind), format});
      if (found == entries.end())
        fail("{}: has no score of {} in layer {} as {}: score again with the --only and --skip of this run",
             origin, unit_name(unit.kind), unit.layer, format);
      if (found->second.bytes != static_cast<int64_t>(choice.bytes))
        fail("{}: {} in layer {} as {} has {} bytes there, but {} in this run", origin, unit_name(unit.kind),
             unit.layer, format, found->second.bytes, choice.bytes);
      scores.of.back().push_back(found->second.score);
    }
  }
  return scores;
}

}  // namespace visq
