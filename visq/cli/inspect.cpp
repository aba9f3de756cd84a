#include "visq/cli/commands.h"
#include "visq/cli/inspect_gguf.h"
#include "visq/core/error.h"
#include "visq/core/text.h"
#include "visq/export/engines.h"
#include "visq/export/layout_parts.h"
#include "visq/export/model_format.h"
#include "visq/families/model.h"

namespace visq {
namespace {

struct Part {
  size_t tensors = 0;
  uint64_t bytes = 0;
  std::map<std::string, size_t> dtypes;
};

// Which part of the model a tensor belongs to, in the order of the data's way.
std::string part_of(const ModelSpec& spec, const std::string& name) {
  const std::string canonical = NameMap::canonical(spec, name);
  const auto below = [&](const std::string& prefix) { return canonical.rfind(prefix, 0) == 0; };
  if (below(spec.projector_prefix)) return "3 projector";
  if (below(spec.tower_prefix)) return "2 vision tower";
  if (below(spec.decoder_prefix + "layers.")) return "4 decoder layers";
  if (below(spec.decoder_prefix + "embed_tokens")) return "1 embeddings";
  if (below("lm_head")) return "6 head";
  return "5 other";
}

std::string schemes_text(const std::vector<Scheme>& schemes) {
  std::string text;
  for (const Scheme& scheme : schemes)
    text += visq::format("{}{}, {:.3g} bits a weight with scales, inputs {}", text.empty() ? "" : "; ",
                         describe_weight(scheme), scheme.bits_per_weight(), describe_input(scheme));
  return text;
}

Json schemes_json(const std::vector<Scheme>& schemes) {
  Json list = Json::array();
  for (const Scheme& scheme : schemes)
    list.push_back({{"weights", describe_weight(scheme)},
                    {"bits_per_weight", scheme.bits_per_weight()},
                    {"inputs", describe_input(scheme)}});
  return list;
}

/// Of a checkpoint in a model format: what its files say of themselves, and how large they are.
void inspect_format(const ModelFormat& format, const std::filesystem::path& path, bool json) {
  std::map<std::string, uint64_t> files;
  if (std::filesystem::is_directory(path)) {
    for (const auto& entry : std::filesystem::directory_iterator(path))
      if (entry.is_regular_file()) files[entry.path().filename().string()] = entry.file_size();
  } else {
    files[path.filename().string()] = std::filesystem::file_size(path);
  }
  uint64_t bytes = 0;
  for (const auto& [name, size] : files) bytes += size;
  const auto facts = format.describe(path);
  if (json) {
    Json out = {{"model_format", format.name()}};
    for (const auto& [name, value] : facts) out[name] = value;
    out["bytes"] = bytes;
    out["files"] = files;
    visq::print("{}\n", json_text(out, 2));
    return;
  }
  visq::print("{}: a checkpoint of {}\n", path.string(), format.name());
  for (const auto& [name, value] : facts) visq::print("{}: {}\n", name, value);
  std::vector<std::vector<std::string>> rows = {{"file", "size"}};
  for (const auto& [name, size] : files) rows.push_back({name, human_bytes(size)});
  rows.push_back({"all", human_bytes(bytes)});
  visq::print("\n{}", format_table(rows, {1}));
}

/// Those that read the format and know the tensors' names.
std::vector<std::string> loading_engines(const QuantizedCheckpoint& quantized, const Checkpoint& checkpoint) {
  std::vector<std::string> engines = quantized.engines();
  const std::vector<std::string> tensors = text_model_tensors(checkpoint);
  const std::string model_type = quantized.served_model().model_type;
  std::erase_if(engines, [&](const std::string& name) {
    return judge_names(find_engine(name), model_type, tensors).has_value();
  });
  return engines;
}

void run(const std::string& directory, bool json, int64_t tp, int64_t pp) {
  if (const auto files = gguf_files(directory); !files.empty()) return inspect_gguf(files, json);
  if (const ModelFormat* const format = model_format_at(directory))
    return inspect_format(*format, directory, json);
  const Checkpoint checkpoint(directory);
  const ModelSpec spec =
      describe_model(checkpoint.config(), (checkpoint.directory() / "config.json").string());
  const auto quantized = QuantizedCheckpoint::open(checkpoint);
  std::map<std::string, Part> parts;
  const size_t quantized_linears = quantized ? quantized->modules().size() : 0;
  for (const std::string& name : checkpoint.names()) {
    const TensorInfo& info = checkpoint.info(name);
    Part& part = parts[part_of(spec, name)];
    ++part.tensors;
    part.bytes += info.bytes();
    ++part.dtypes[std::string(safetensors_dtype(info.dtype))];
  }
  const nn::DecoderSpec& decoder = spec.decoder;
  const auto excluded = quantized ? quantized->layout().exclude_entries(
                                        quantization_config_of(checkpoint.text_model()), directory)
                                  : std::vector<std::string>{};
  if (json) {
    Json out = {{"family", spec.family},
                {"architecture", spec.architecture},
                {"layers", decoder.layers},
                {"hidden", decoder.hidden},
                {"heads", decoder.heads},
                {"kv_heads", decoder.kv_heads},
                {"vocabulary", decoder.vocab},
                {"bytes", checkpoint.total_bytes()},
                {"tensors", checkpoint.names().size()}};
    if (quantized)
      out["quantization"] = {{"format", quantized->format_name()},
                             {"layout", quantized->layout().name()},
                             {"linears", quantized_linears},
                             {"kv_cache", kv_cache_name(quantized->kv_cache())},
                             {"schemes", schemes_json(quantized->schemes())},
                             {"engines", loading_engines(*quantized, checkpoint)},
                             {"excluded", excluded}};
    for (const auto& [name, part] : parts)
      out["parts"].push_back({{"part", name.substr(2)},
                              {"tensors", part.tensors},
                              {"bytes", part.bytes},
                              {"dtypes", part.dtypes}});
    visq::print("{}\n", json_text(out, 2));
    return;
  }
  visq::print("{}: {} ({}), {} decoder layers of width {}, {} query and {} KV heads, vocabulary {}\n",
              directory, spec.family, spec.architecture, decoder.layers, decoder.hidden, decoder.heads,
              decoder.kv_heads, decoder.vocab);
  if (quantized) {
    const auto engines = loading_engines(*quantized, checkpoint);
    visq::print("quantized: {} in the {} layout, {} linears ({}), KV cache {}; read by {}\n",
                quantized->format_name(), quantized->layout().name(), quantized_linears,
                schemes_text(quantized->schemes()),
                quantized->kv_cache() == KvCacheFormat::none ? "as is" : kv_cache_name(quantized->kv_cache()),
                engines.empty() ? "no engine" : visq::format("{}", fmt::join(engines, ", ")));
    visq::print("excluded: {}\n", fmt::join(excluded, "  "));
    const ServedModel model = quantized->served_model();
    for (const std::string& name : engines) {
      const EngineModel& engine = find_engine(name);
      const auto finding = judge_architecture(engine, spec.architecture);
      visq::print("{}: {}\n", engine.title,
                  finding && !finding->warning
                      ? finding->what
                      : engine.serve_command(directory, model.layout, model.model_type, tp, pp));
    }
  } else {
    visq::print("not quantized\n");
  }
  std::vector<std::vector<std::string>> rows = {{"part", "tensors", "size", "dtypes"}};
  for (const auto& [name, part] : parts) {
    std::string dtypes;
    for (const auto& [dtype, count] : part.dtypes)
      dtypes += visq::format("{}{} × {}", dtypes.empty() ? "" : ", ", count, dtype);
    rows.push_back({name.substr(2), std::to_string(part.tensors), human_bytes(part.bytes), dtypes});
  }
  rows.push_back(
      {"all", std::to_string(checkpoint.names().size()), human_bytes(checkpoint.total_bytes()), ""});
  visq::print("\n{}", format_table(rows, {1, 2}));
}

}  // namespace

void add_inspect_command(Command& program) {
  struct Arguments {
    std::string checkpoint;
    bool json = false;
    int64_t tp = 1, pp = 1;
  };
  auto arguments = std::make_shared<Arguments>();
  Command command =
      program.add_command("inspect", "says what is in a checkpoint: parts, sizes, formats, exclusions");
  command.add_option("checkpoint", arguments->checkpoint, "checkpoint directory, or a GGUF file").required();
  command.add_option("--tp", arguments->tp, "tensor parallelism of the serving commands").positive();
  command.add_option("--pp", arguments->pp, "pipeline parallelism of the serving commands").positive();
  command.add_flag("--json", arguments->json, "as JSON");
  command.on_run([arguments] { run(arguments->checkpoint, arguments->json, arguments->tp, arguments->pp); });
}

}  // namespace visq
