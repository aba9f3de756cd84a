// What is known of the serving engines' loaders: the data of visq/export/engines/*.yaml, one file an engine.
// Each says the version that it was read from.
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "visq/quant/kv_format.h"
#include "visq/quant/presets.h"

namespace visq {

/// "from" at the beginning of a name becomes "to".
using Renames = std::vector<std::pair<std::string, std::string>>;

/// How an engine decides which modules an exclude list covers (engines.cpp).
enum class ExcludeRule {
  vllm_modelopt,       ///< whole names, then substrings, then globs
  vllm_names,          ///< whole names
  vllm_expressions,    ///< whole names, or "re:" from the start of the name
  vllm_substrings,     ///< names that an entry is part of
  sglang_modelopt,     ///< runs of components, then globs over the name or any one component
  sglang_names,        ///< runs of components
  sglang_expressions,  ///< last components, or "re:" from the start of the name
  sglang_substrings,   ///< as vllm_substrings, but entries are not renamed
  tensorrt_llm,        ///< globs or "re:" over the name or what it lies in
  components,          ///< one component, or the first ones
  dynamic              ///< "-:" and an expression from the start of the name
};

/// A format that an engine reads from a layout.
struct ReadFormat {
  std::string name;  ///< a preset that is stored so, or what its weights are
  Scheme scheme;
  double gpu = 0;        ///< least compute capability that runs it
  double native = 0;     ///< from which on it multiplies in that format, not in 16 bits; 0: from `gpu`
  bool exactly = false;  ///< whether no newer GPU than `gpu` runs it
  bool ordered_columns = false;  ///< whether columns may share scales by their importance too
  int64_t rows = 1;              ///< of a weight must be multiples of it
  int64_t columns = 1;           ///< likewise
  std::vector<int64_t> blocks;   ///< that may share a scale; empty: the preset's own
  std::string needs;             ///< a package that does not come with the engine; "": none
  /// Rows of all but the last of what is fused (q, k; gate) must be multiples of it.
  int64_t fused_rows = 1;
  std::map<std::string, std::string> fails;  ///< model_type → why linears of this format do not load there

  bool reads(const Scheme& found) const;
};

/// When an engine quantizes what the files have packed, and nothing else, but for what the list covers.
enum class AsStored { never, without_list, always };

struct EngineLayout {
  ExcludeRule exclude = ExcludeRule::vllm_names;
  AsStored as_stored = AsStored::never;
  std::vector<ReadFormat> formats;
  std::vector<KvCacheFormat> kv_caches;
  std::map<std::string, std::string> fails;     ///< model_type → why nothing loads there from this layout
  std::map<std::string, std::string> kv_fails;  ///< model_type → why scales of caches do not load there
  std::vector<std::string> mixes;               ///< presets whose linears may stand beside each other
  std::vector<std::string> unquantized;  ///< parts of names that are never quantized, whatever the list says
  std::map<std::string, std::string> options;  ///< model_type → what its command needs besides
};

/// What the names of one kind of model become.
struct EngineNames {
  std::vector<std::string> models;  ///< model_type of config.json
  Renames modules;                  ///< of modules in the files: each in turn
  Renames module_ends;              ///< of modules: "from" at the end of a name becomes "to"
  Renames parts;                    ///< likewise, and anywhere in entries
  Renames entries;                  ///< of entries of exclude lists: the first that fits; default: `modules`
  std::vector<std::string> unquantized;  ///< components that are built in 16 bits, whatever the list says
  /// What of the fused linears (qkv_proj, gate_up_proj) is looked up by the names of its members too.
  std::vector<std::string> shards;
  std::vector<std::string> unknown;  ///< how names in the files begin that its loader does not know
};

struct EngineModel {
  std::string name, title, version;
  std::string fallback;                        ///< what runs other architectures; "": nothing does
  std::string serve;                           ///< the command that serves {model}
  std::string parallel;                        ///< what follows it for {tp} · {pp} GPUs
  std::vector<std::string> architectures;      ///< that have a model class of their own
  std::map<std::string, std::string> dropped;  ///< refused, with the last version that had them
  std::vector<std::string> absent;             ///< that the fallback does not run either
  std::vector<EngineNames> names;
  /// Components that are quantized where the files have scales for them, unless the exclude list covers them.
  std::vector<std::string> as_stored;
  std::map<std::string, EngineLayout> layouts;  ///< by a layout's name

  /// The command that serves a directory of this layout and model_type. @param tp, pp  GPUs that share
  /// layers, and that layers are shared out to
  std::string serve_command(const std::string& directory, const std::string& layout,
                            const std::string& model_type, int64_t tp, int64_t pp) const;
  const EngineLayout* layout(const std::string& name) const;  ///< nullptr: it does not read this layout
  const EngineNames& names_of(const std::string& model_type) const;
  /// nullptr: it does not read linears of this scheme from the layout.
  const ReadFormat* format(const std::string& layout, const Scheme& scheme) const;
  /// Whether it reads linears of all these schemes beside each other.
  bool reads(const std::string& layout, const std::vector<Scheme>& schemes) const;
  bool reads(const std::string& layout, KvCacheFormat kv_cache) const;
};

const std::vector<EngineModel>& engine_models();
/// @throws Error naming `option` and listing the engines when there is none of that name
const EngineModel& find_engine(const std::string& name, const std::string& option = "--for");

/// Names of the engines that read linears of these schemes, and a KV cache, from a layout.
std::vector<std::string> engines_reading(const std::string& layout, const std::vector<Scheme>& schemes);
std::vector<std::string> engines_reading(const std::string& layout, KvCacheFormat kv_cache);

}  // namespace visq
