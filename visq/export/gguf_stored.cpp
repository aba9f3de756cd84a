#include "visq/export/gguf_stored.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "visq/core/error.h"
#include "visq/export/gguf_blocks.h"
#include "visq/export/gguf_dequantize.h"
#include "visq/export/gguf_text.h"
#include "visq/export/layout_parts.h"

namespace visq {
namespace {

/// Whether its blocks are what a codec of visq's makes.
bool is_packed(uint32_t type) {
  switch (static_cast<GgmlType>(type)) {
    case GgmlType::q8_0:
    case GgmlType::q4_0:
    case GgmlType::q4_1:
    case GgmlType::mxfp4:
    case GgmlType::nvfp4:
      return true;
    default:
      return false;
  }
}

class GgufStoredModel final : public StoredModel {
 public:
  GgufStoredModel(const std::filesystem::path& path, const Model& source)
      : file_(path), source_(source), text_(source) {
    const std::string architecture = file_.text("general.architecture");
    if (architecture != text_.architecture())
      fail("{}: is of the architecture '{}', but {} is '{}'", path.string(), architecture,
           source.checkpoint().directory().string(), text_.architecture());
    for (const GgufTextTensor& tensor : text_.tensors()) {
      check(tensor);
      by_source_.emplace(tensor.source, &tensor);
      if (tensor.linear) by_linear_.emplace(std::pair{tensor.layer, *tensor.linear}, &tensor);
    }
    find_blocks();
  }

  std::optional<Scheme> scheme(int64_t layer, const nn::LinearId& id) const override {
    const GgufTensor& stored = file_tensor(at(layer, id));
    if (!is_packed(stored.type)) return std::nullopt;
    Scheme scheme;
    const auto type = static_cast<GgmlType>(stored.type);
    scheme.weight = type == GgmlType::q8_0    ? Codec::int8
                    : type == GgmlType::q4_0  ? Codec::int4
                    : type == GgmlType::q4_1  ? Codec::int4_asym
                    : type == GgmlType::mxfp4 ? Codec::mxfp4
                                              : Codec::nvfp4;
    scheme.block = blocks_.at(stored.type);
    if (has_input_scale(at(layer, id))) scheme.input = InputFormat::nvfp4;
    return scheme;
  }

  PackedLinear read(int64_t layer, const nn::LinearId& id) const override {
    const GgufTextTensor& tensor = at(layer, id);
    PackedLinear linear;
    linear.weight = packed(tensor);
    PackedTensor& weight = linear.weight;
    weight = with_block(weight, blocks_.at(file_tensor(tensor).type));
    if (has_input_scale(tensor)) linear.input_scale = number(tensor.input_scale_name());
    for (at::Tensor* part : {&weight.codes, &weight.scale, &weight.zero_point})
      if (part->defined()) *part = separate_halves(*part, tensor.permuted_heads);
    return linear;
  }

  KvCacheFormat kv_cache() const override { return KvCacheFormat::none; }
  KvScales kv_scales(int64_t) const override { fail("{}: holds no KV cache", file_.path().string()); }

  std::optional<at::Tensor> other(const std::string& name) const override {
    const auto found = by_source_.find(name);
    if (found == by_source_.end()) return std::nullopt;
    const GgufTextTensor& tensor = *found->second;
    at::Tensor value = real_numbers(tensor);
    if (tensor.plus_one) value = without_added_one(value, source_.checkpoint(), name);
    value = separate_halves(value, tensor.permuted_heads);
    const bool plain = dtype_of(file_tensor(tensor).type).has_value();
    return plain && source_.checkpoint().contains(name) ? value.to(source_.checkpoint().info(name).dtype)
                                                        : value;
  }

  std::set<std::string> unheld() const override {
    std::set<std::string> names;
    for (const GgufTextTensor& tensor : text_.tensors()) {
      const uint32_t type = file_tensor(tensor).type;
      if (!dtype_of(type) && !(tensor.linear && is_packed(type))) names.insert(tensor.source);
    }
    return names;
  }

  std::string format_name() const override {
    std::set<std::string> types;
    bool unheld = false;
    for (const auto& [id, tensor] : by_linear_) {
      types.insert(find_ggml_type(file_tensor(*tensor).type)->name);
      unheld |= is_dequantized(file_tensor(*tensor).type);
    }
    return unheld ? visq::format("{}", fmt::join(types, " + ")) : "";
  }

 private:
  const GgufTextTensor& at(int64_t layer, const nn::LinearId& id) const {
    return *by_linear_.at({layer, id});
  }
  const GgufTensor& file_tensor(const GgufTextTensor& tensor) const {
    return *file_.find_tensor(tensor.name);
  }

  void check(const GgufTextTensor& tensor) const {
    const GgufTensor* const stored = file_.find_tensor(tensor.name);
    const std::string origin = file_.path().string();
    if (stored == nullptr) fail("{}: tensor '{}' is missing", origin, tensor.name);
    // Vocabularies are filled up or cut to the number of tokens.
    const bool rows_vary = tensor.name == "token_embd.weight" || tensor.name == "output.weight";
    const auto columns = [rows_vary](const std::vector<int64_t>& shape) {
      return rows_vary ? std::vector<int64_t>{shape.back()} : shape;
    };
    if (stored->shape.size() != tensor.shape.size() || columns(stored->shape) != columns(tensor.shape))
      fail("{}: tensor '{}' is [{}], but that of the original [{}]: this is another model", origin,
           tensor.name, fmt::join(stored->shape, ", "), fmt::join(tensor.shape, ", "));
    const bool matrix = stored->shape.size() == 2;
    if (!dtype_of(stored->type) && !(matrix && (is_packed(stored->type) || is_dequantized(stored->type))))
      fail(
          "{}: tensor '{}' is {}, which visq does not read: matrices can be Q8_0, Q4_0, Q4_1, MXFP4, "
          "NVFP4, {}, F32, F16 or BF16, other tensors the latter three",
          origin, tensor.name, find_ggml_type(stored->type)->name, dequantized_types_text());
    if (tensor.linear && !is_nvfp4(*stored) && file_.find_tensor(tensor.scale_name()) != nullptr)
      fail("{}: tensor '{}' is {} and has a scale beside it ('{}'), which visq reads of NVFP4 alone", origin,
           tensor.name, find_ggml_type(stored->type)->name, tensor.scale_name());
  }

  static bool is_nvfp4(const GgufTensor& stored) {
    return static_cast<GgmlType>(stored.type) == GgmlType::nvfp4;
  }
  bool has_input_scale(const GgufTextTensor& tensor) const {
    return is_nvfp4(file_tensor(tensor)) && file_.find_tensor(tensor.input_scale_name()) != nullptr;
  }

  at::Tensor real_numbers(const GgufTextTensor& tensor) const {
    const GgufTensor& stored = file_tensor(tensor);
    const auto bytes = file_.bytes(stored);
    if (is_packed(stored.type)) return dequantize(packed(tensor));
    if (is_dequantized(stored.type)) {
      at::Tensor values =
          dequantize_ggml(static_cast<GgmlType>(stored.type), bytes, stored.shape[0], stored.shape[1]);
      if (!at::isfinite(values).all().item<bool>())
        fail("{}: tensor '{}' has a scale that is not finite", file_.path().string(), tensor.name);
      return values;
    }
    at::Tensor value = at::empty(stored.shape, *dtype_of(stored.type));
    std::ranges::copy(bytes, static_cast<std::byte*>(value.mutable_data_ptr()));
    return value;
  }

  PackedTensor packed(const GgufTextTensor& tensor) const {
    const GgufTensor& stored = file_tensor(tensor);
    PackedTensor packed = from_ggml_blocks(static_cast<GgmlType>(stored.type), file_.bytes(stored),
                                           stored.shape[0], stored.shape[1], tensor.name);
    if (packed.codec == Codec::nvfp4) {  // other tools leave out what is 1
      const bool has = file_.find_tensor(tensor.scale_name()) != nullptr;
      packed.scale_2 = scalar_tensor(has ? number(tensor.scale_name()) : 1, at::kFloat, {});
    }
    return packed;
  }

  /// A positive F32.
  float number(const std::string& name) const {
    const GgufTensor& stored = *file_.find_tensor(name);
    float value = 0;
    if (static_cast<GgmlType>(stored.type) == GgmlType::f32 && stored.shape == std::vector<int64_t>{1})
      std::memcpy(&value, file_.bytes(stored).data(), sizeof value);
    if (!std::isfinite(value) || value <= 0)
      fail("{}: tensor '{}' is not one positive F32 number", file_.path().string(), name);
    return value;
  }

  // The file repeats a scale of many columns block by block.
  void find_blocks() {
    for (const auto& [id, tensor] : by_linear_) {
      const uint32_t type = file_tensor(*tensor).type;
      if (!is_packed(type)) continue;
      const bool integers =
          static_cast<GgmlType>(type) != GgmlType::mxfp4 && static_cast<GgmlType>(type) != GgmlType::nvfp4;
      auto [found, first] =
          blocks_.emplace(type, static_cast<GgmlType>(type) == GgmlType::nvfp4 ? kNvfp4Block : kGgmlBlock);
      if (!integers || (!first && found->second == kGgmlBlock)) continue;
      const bool int8 = static_cast<GgmlType>(type) == GgmlType::q8_0;
      std::vector<int64_t> candidates =
          int8 ? std::vector<int64_t>{0, 128, 64} : std::vector<int64_t>{128, 64};
      // Not more columns than the linears before share.
      const auto known = first ? candidates.begin() : std::ranges::find(candidates, found->second);
      candidates.erase(candidates.begin(), known);
      found->second = shared_columns(packed(*tensor), candidates);
    }
  }

  GgufFile file_;
  const Model& source_;
  GgufTextModel text_;
  std::map<std::string, const GgufTextTensor*> by_source_;
  std::map<std::pair<int64_t, nn::LinearId>, const GgufTextTensor*> by_linear_;
  std::map<uint32_t, int64_t> blocks_;  // columns that share a scale, by type
};

}  // namespace

namespace {

/// GGUF files of a directory that are, or are not, of a vision tower.
std::vector<std::filesystem::path> gguf_files(const std::filesystem::path& directory, bool of_vision) {
  std::vector<std::filesystem::path> found;
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored)) return found;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const bool vision = entry.path().filename().string().find("mmproj") != std::string::npos;
    if (entry.path().extension() == ".gguf" && vision == of_vision && is_gguf(entry.path()))
      found.push_back(entry.path());
  }
  return found;
}

}  // namespace

std::optional<std::filesystem::path> find_gguf_text(const std::filesystem::path& path) {
  if (is_gguf(path)) return path;
  const auto found = gguf_files(path, /*of_vision=*/false);
  if (found.size() != 1) return std::nullopt;
  return found.front();
}

bool has_gguf_vision(const std::filesystem::path& directory) {
  return !gguf_files(directory, /*of_vision=*/true).empty();
}

std::unique_ptr<StoredModel> open_gguf(const std::filesystem::path& path, const Model& source) {
  return std::make_unique<GgufStoredModel>(path, source);
}

}  // namespace visq
