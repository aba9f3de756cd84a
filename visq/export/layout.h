// How packed tensors are named, typed and stored on disk, and which configuration tells the engines so.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "visq/core/json.h"
#include "visq/io/checkpoint.h"
#include "visq/io/checkpoint_writer.h"
#include "visq/quant/low_rank.h"
#include "visq/quant/presets.h"

namespace visq {

/// A linear that a recipe quantizes. `module` is its name in the files, without ".weight".
struct QuantizedLinear {
  std::string module;
  int64_t rows = 0, columns = 0;
  at::ScalarType source_dtype = at::kBFloat16;
  Scheme scheme;
  bool standalone = false;  ///< engines do not fuse it with others (o_proj, down_proj)
  /// Its scales are numbers that source_dtype does not hold: a layout whose scales have that type stores them
  /// in F32. Engines that hold scales of integers in the model's type round them as they load.
  bool wide_scales = false;
};

/// Bits a weight takes on disk, with scales and low-rank factors.
double bits_per_weight(const QuantizedLinear& linear);

/// What solver and codec made of a linear; what a reader finds.
struct PackedLinear {
  PackedTensor weight;
  at::Tensor
      column_order;  ///< int64 [columns]: what stands where in `weight` (column_order.h); undefined: in order
  std::optional<float> input_scale;   ///< real input = code · input_scale
  std::optional<float> second_scale;  ///< W4A8: amax of the dequantized weight / 448
  at::Tensor pre_quant_scale;         ///< [columns] factors of the input before quantization; undefined: none
  LowRank low_rank;  ///< beside the weight, of the input as it is after pre_quant_scale; undefined: none
};

/// What a configuration has to say about an output.
struct ExportSummary {
  std::vector<Scheme> schemes;  ///< of the quantized linears, none stored like another
  KvCacheFormat kv_cache = KvCacheFormat::none;
  std::vector<std::string>
      unquantized_roots;  ///< subtrees (towers, projectors, head), every naming generation
  std::vector<std::string>
      unquantized_linears;  ///< decoder linears left out by the recipe, every naming generation
  /// All linears that are not quantized, wherever they are, by their whole names in every naming generation:
  /// for layouts whose readers compare whole names.
  std::vector<std::string> other_linears;
  /// Every quantized linear, by its name in its part's files; may be empty where there is one scheme.
  std::vector<std::pair<std::string, Scheme>> linears = {};
  std::string recipe = {};  ///< its name; "": none is named
};

/// What a configuration says of a checkpoint.
struct StoredQuantization {
  Scheme scheme;                          ///< of all quantized linears, unless `linears` says
  std::map<std::string, Scheme> linears;  ///< by name in the part's files; empty: they have one scheme
  KvCacheFormat kv_cache = KvCacheFormat::none;
  std::string recipe;  ///< that made it; "": not said

  const Scheme& scheme_of(const std::string& module) const;
  std::vector<Scheme> schemes() const;  ///< none stored like another
};

/// One tensor of a quantized linear: its place in the plan and how to get its value.
struct LayoutTensor {
  PlannedTensor planned;
  std::function<at::Tensor(const PackedLinear&)> value;
};

/// The cache of one attention module, as stored beside it.
struct QuantizedKvCache {
  std::string attention;  ///< its name in the files
  KvCacheFormat format = KvCacheFormat::fp8;
  int64_t kv_heads = 0, head_dim = 0;
  at::ScalarType source_dtype = at::kBFloat16;
};
struct KvLayoutTensor {
  PlannedTensor planned;
  std::function<at::Tensor(const KvScales&)> value;
};
/// Where a layout keeps the scales of a KV cache.
struct KvStorage {
  const char *key, *value;  ///< between the attention's name and "scale" or "bias"
  at::ScalarType scale_dtype = at::kFloat;
  std::vector<int64_t> scalar_shape;  ///< [] or [1]
  bool unit_scales = false;           ///< scales that are always 1 are stored too
};

/// A way to store quantized linears. Stateless; one object each.
class Layout {
 public:
  virtual ~Layout() = default;
  virtual const char* name() const = 0;
  virtual bool holds(const Scheme& scheme) const = 0;
  /// dtype that scales are stored in, so that they can be rounded to it before codes are computed.
  virtual at::ScalarType scale_dtype(at::ScalarType source_dtype) const = 0;
  /// dtype of the input scale, where that is another.
  virtual at::ScalarType input_scale_dtype(const Scheme&, at::ScalarType source_dtype) const {
    return scale_dtype(source_dtype);
  }
  /// Why these tensors cannot hold a linear of this shape; "": they can.
  virtual std::string misfit(const QuantizedLinear&) const { return ""; }
  virtual std::vector<LayoutTensor> tensors(const QuantizedLinear& linear) const = 0;
  virtual bool holds(KvCacheFormat format) const = 0;
  /// Engines that read linears of these schemes beside each other in this layout (engine_model.h).
  std::vector<std::string> engines(const std::vector<Scheme>& schemes) const;
  /// Those that read a KV cache of this format from it.
  std::vector<std::string> engines(KvCacheFormat format) const;
  /// Those that read both.
  std::vector<std::string> engines(const std::vector<Scheme>& schemes, KvCacheFormat kv_cache) const;
  bool holds(const std::vector<Scheme>& schemes) const;
  virtual KvStorage kv_storage(at::ScalarType source_dtype) const = 0;
  /// None for a format whose scales this layout need not say.
  std::vector<KvLayoutTensor> kv_tensors(const QuantizedKvCache& cache) const;
  /// The value of config.json's "quantization_config".
  virtual Json quantization_config(const ExportSummary& summary) const = 0;
  /// The key of quantization_config that lists what is not quantized.
  virtual const char* exclude_key() const { return "ignore"; }
  /// Its entries, as ExcludeList takes them; none where the list is missing.
  virtual std::vector<std::string> exclude_entries(const Json& quantization_config,
                                                   const std::string& origin) const {
    return get_or<std::vector<std::string>>(quantization_config, exclude_key(), {}, origin);
  }
  /// Further files: name and content.
  virtual std::vector<std::pair<std::string, Json>> extra_files(const ExportSummary&) const { return {}; }

  /// Empty: the quantization_config is not of this layout.
  /// @throws Error when it is, but not a scheme that visq knows
  virtual std::optional<StoredQuantization> recognise(const Json& quantization_config,
                                                      const std::string& origin) const = 0;
  /// Finds the scheme of each of these linears, for configurations that say it by patterns.
  /// @param modules  the quantized ones, by their names in the part's files
  /// @throws Error when the configuration contradicts itself, or what is stored
  virtual void resolve(StoredQuantization&, const Json& /*quantization_config*/,
                       const std::vector<std::string>& /*modules*/, const std::string& /*origin*/) const {}
  virtual bool is_quantized(const Checkpoint& checkpoint, const std::string& module) const = 0;
  /// What may stand behind the name of a quantized linear in the names of its tensors.
  virtual const std::vector<std::string>& suffixes() const = 0;
  /// @throws Error naming the tensor when one is missing or misshapen
  virtual PackedLinear read(const Checkpoint& checkpoint, const std::string& module,
                            const Scheme& scheme) const = 0;
  /// @param cache  source_dtype says nothing here; −1 heads or channels: any number
  /// @throws Error naming the tensor when one is missing, misshapen, or no plausible number
  KvScales read_kv(const Checkpoint& checkpoint, const QuantizedKvCache& cache) const;

 protected:
  /// Whether linears of several schemes can stand beside each other.
  virtual bool holds_mixes() const { return false; }
};

const Layout& modelopt_layout();
const Layout& compressed_tensors_layout();
const Layout& hf_fp8_layout();
const Layout& bitsandbytes_layout();
const Layout& autoawq_layout();
const Layout& gptq_layout();
const std::vector<const Layout*>& layouts();
std::string layout_names();  ///< of all, model formats among them, for errors
/// Those that can be named instead, for errors; "": none.
std::string layouts_that(const std::function<bool(const Layout&)>& serve);
/// "weights INT4, blocks of 128 with inputs as is", for errors; several schemes beside each other.
std::string describe_schemes(const std::vector<Scheme>& schemes);

/// Where an output is to go.
struct LayoutChoice {
  LayoutChoice(const char* name) : layout(name) {}  // NOLINT: a name is a choice
  LayoutChoice(std::string name, std::vector<std::string> readers = {})
      : layout(std::move(name)), engines(std::move(readers)) {}
  /// A layout's name, or "auto": the one that the most engines read, of those with a place for scales of KV
  /// caches if any engine reads one of them.
  std::string layout;
  std::vector<std::string> engines;  ///< that must read it
};

/// @param format  what the schemes are called, for errors
/// @throws Error when there is no such layout, it does not hold the schemes or the KV cache, or the engines
/// do not read it
const Layout& find_layout(const LayoutChoice& choice, const std::vector<Scheme>& schemes,
                          const std::string& format, KvCacheFormat kv_cache = KvCacheFormat::none);
inline const Layout& find_layout(const LayoutChoice& choice, const Preset& preset,
                                 KvCacheFormat kv_cache = KvCacheFormat::none) {
  return find_layout(choice, {preset.scheme}, preset.name, kv_cache);
}

/// Adds the scheme unless one that is stored alike is there.
void add_stored(std::vector<Scheme>& schemes, const Scheme& scheme);

/// `config_text` without its "quantization_config", everything else as it was. @param config  what it says,
/// or shall say
std::string remove_quantization_config(const std::string& config_text, Json config);

/// `config_text` with "quantization_config" added as the last key, everything else as it was.
/// @throws Error when the text has that key already
std::string add_quantization_config(const std::string& config_text, const Json& value,
                                    const std::string& origin);

}  // namespace visq
