#include "visq/export/gguf_mmproj.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>

#include "visq/core/error.h"
#include "visq/core/parallel.h"
#include "visq/export/gguf_blocks.h"
#include "visq/export/gguf_writer.h"
#include "visq/inputs/image_processor.h"

namespace visq {
namespace {

using Kind = nn::ProjectorOp::Kind;

constexpr int64_t kQwenWindow = 112;  // pixels, fixed in llama.cpp
constexpr int64_t kQwenImage = 560;   // pixels a side that it makes room for
constexpr int64_t kGemmaPool = 4;     // where the file says nothing

/// The projectors of llama.cpp that visq writes.
enum class Projector { llava, qwen2, qwen25, qwen3, gemma3 };

struct Choice {
  Projector projector = Projector::llava;
  std::string refusal;
};

bool is_chain(const nn::ProjectorSpec& chain, const std::vector<Kind>& kinds) {
  return chain.size() == kinds.size() &&
         std::ranges::equal(chain, kinds, {}, [](const nn::ProjectorOp& op) { return op.kind; });
}

Choice choose(const Model& model) {
  const ModelSpec& spec = model.spec();
  const nn::VisionSpec& vision = spec.vision;
  const std::string& family = spec.family;
  const auto no = [](const std::string& what) { return Choice{Projector::llava, what}; };
  if (family == "llava") {
    if (!vision.class_token || !vision.pre_norm || !vision.drop_class_token)
      return no("a tower that is not CLIP's");
    if (vision.feature_layers.size() != 1) return no("features of several layers of the tower");
    if (!is_chain(spec.projector, {Kind::linear, Kind::activation, Kind::linear}) || !spec.projector[0].bias)
      return no("this projector");
    if (spec.layout.kind != ImageLayout::Kind::flat) return no("this arrangement of image tokens");
    return {Projector::llava, ""};
  }
  if (family == "gemma3") return {Projector::gemma3, ""};
  const bool qwen2 = family == "qwen2_vl", qwen25 = family == "qwen2_5_vl", qwen3 = family == "qwen3_vl";
  if (qwen2 || qwen25 || qwen3) {
    if (vision.merge != 2 || vision.temporal_patch != 2) return no("cells of other than 2 × 2 patches");
    if (!qwen25) return {qwen2 ? Projector::qwen2 : Projector::qwen3, ""};
    if (vision.window != kQwenWindow) return no("attention in windows of other than 112 pixels");
    const int64_t step = vision.full_blocks.empty() ? 0 : vision.full_blocks.front() + 1;
    for (int64_t block = 0; block < vision.layers; ++block)
      if (step == 0 || std::ranges::binary_search(vision.full_blocks, block) != ((block + 1) % step == 0))
        return no("this order of blocks with windows");
    return {Projector::qwen25, ""};
  }
  return no(visq::format("the tower and the projector of the family '{}'", family));
}

/// A tensor of the file and how to get it: f32 or in the type of the checkpoint.
struct Part {
  GgufPlannedTensor planned;
  std::function<at::Tensor()> value;
};

class Mmproj {
 public:
  Mmproj(const Model& model, Projector projector)
      : model_(model), spec_(model.spec()), vision_(spec_.vision), projector_(projector) {
    add_keys();
    add_tower();
    add_projector();
  }

  void write(const std::filesystem::path& path) const {
    std::vector<GgufPlannedTensor> planned;
    for (const Part& part : parts_) planned.push_back(part.planned);
    GgufWriter writer(path, metadata_, std::move(planned));
    parallel_jobs(static_cast<int64_t>(parts_.size()), [&](int64_t i) {
      const Part& part = parts_[static_cast<size_t>(i)];
      writer.write(part.planned.name, part.value());
    });
    writer.close();
  }

 private:
  void key(const std::string& name, GgufValue value) { metadata_.emplace_back(name, std::move(value)); }
  void u32(const std::string& name, int64_t value) {
    key(name, GgufValue::u32(static_cast<uint64_t>(value)));
  }

  /// Blocks that are run: those up to the one whose output is read.
  int64_t blocks() const {
    if (vision_.feature_layers.empty()) return vision_.layers;
    const int64_t layer = vision_.feature_layers.front();
    return layer < 0 ? vision_.layers + 1 + layer : layer;
  }

  void add_keys() {
    const char* const names[] = {"mlp", "qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "gemma3"};
    key("general.architecture", GgufValue::text("clip"));
    key("general.type", GgufValue::text("mmproj"));
    key("general.name", GgufValue::text(spec_.family));
    key("general.quantized_by", GgufValue::text("visq"));
    key("clip.has_vision_encoder", GgufValue::flag(true));
    key("clip.projector_type", GgufValue::text(names[static_cast<int>(projector_)]));
    const bool qwen = projector_ != Projector::llava && projector_ != Projector::gemma3;
    int64_t side = vision_.image_size;
    if (qwen)
      side = projector_ == Projector::qwen3
                 ? static_cast<int64_t>(std::sqrt(static_cast<double>(vision_.position_rows))) * vision_.patch
                 : kQwenImage;
    const std::string at = "clip.vision.";
    u32(at + "image_size", side);
    u32(at + "patch_size", vision_.patch);
    u32(at + "embedding_length", vision_.width);
    u32(at + "feed_forward_length", vision_.mlp_width);
    u32(at + "block_count", blocks());
    u32(at + "attention.head_count", vision_.heads);
    u32(at + "projection_dim", spec_.decoder.hidden);
    key(at + "attention.layer_norm_epsilon", GgufValue::f32(vision_.norm_eps));
    const ImageProcessor processor =
        spec_.image_processor.is_null()
            ? ImageProcessor::load(model_.checkpoint().directory())
            : ImageProcessor::parse(spec_.image_processor,
                                    (model_.checkpoint().directory() / "config.json").string());
    const auto three = [](const auto& values) { return std::vector<double>(values.begin(), values.end()); };
    key(at + "image_mean", GgufValue::f32s(three(processor.steps.mean)));
    key(at + "image_std", GgufValue::f32s(three(processor.steps.std)));
    // Neither: the quick approximation.
    if (vision_.activation == nn::Activation::silu) key("clip.use_silu", GgufValue::flag(true));
    if (vision_.activation == nn::Activation::gelu || vision_.activation == nn::Activation::gelu_tanh)
      key("clip.use_gelu", GgufValue::flag(true));
    if (projector_ == Projector::llava) {
      key("clip.has_llava_projector", GgufValue::flag(true));
      key(at + "feature_layer", GgufValue::i32s({blocks()}));
    }
    if (qwen) u32(at + "spatial_merge_size", vision_.merge);
    if (projector_ == Projector::qwen25) {
      u32(at + "n_wa_pattern", vision_.full_blocks.front() + 1);
      u32(at + "window_size", vision_.window);
    }
    if (projector_ == Projector::qwen3) {
      std::vector<bool> taken(static_cast<size_t>(vision_.layers));
      for (const int64_t block : vision_.deepstack_blocks) taken[static_cast<size_t>(block)] = true;
      key(at + "is_deepstack_layers", GgufValue::flags(std::move(taken)));
    }
    if (projector_ == Projector::gemma3 && spec_.projector.front().side != kGemmaPool)
      u32(at + "projector.scale_factor", spec_.projector.front().side);
  }

  const TensorInfo& info(const std::string& canonical) const {
    const std::string source = model_.names().source(canonical);
    if (source.empty())
      fail("{}: tensor '{}' is missing", model_.checkpoint().directory().string(), canonical);
    return model_.checkpoint().info(source);
  }

  /// @param change  of the tensor as it is in the files, which gives one of `shape`; empty: none
  void add(const std::string& name, const std::string& canonical, std::vector<int64_t> shape, bool widen,
           std::function<at::Tensor(const at::Tensor&)> change = {}) {
    const TensorInfo& own = info(canonical);
    const std::optional<GgmlType> type = ggml_type_of(own.dtype);
    if (!type)
      fail("{}: tensor '{}' is {}; F32, F16 and BF16 can be stored",
           model_.checkpoint().file_of(own.name).string(), own.name, safetensors_dtype(own.dtype));
    widen |= shape.size() == 1;  // vectors are always wide
    parts_.push_back({{name, widen ? GgmlType::f32 : *type, std::move(shape)},
                      [this, source = own.name, widen, change = std::move(change)] {
                        at::Tensor value = model_.checkpoint().tensor(source);
                        if (widen) value = value.to(at::kFloat);
                        return (change ? change(value) : value).contiguous();
                      }});
  }
  void add_same(const std::string& name, const std::string& canonical, bool widen = false) {
    std::vector<int64_t> shape = info(canonical).shape;
    while (shape.size() > 2 && shape.front() == 1) shape.erase(shape.begin());  // class tokens, tables
    const at::IntArrayRef view(shape);
    add(name, canonical, shape, widen,
        [sizes = view.vec()](const at::Tensor& own) { return own.reshape(sizes); });
  }
  /// Weight, and bias where there is one.
  void add_module(const std::string& name, const std::string& canonical) {
    add_same(name + ".weight", canonical + ".weight");
    if (!model_.names().source(canonical + ".bias").empty()) add_same(name + ".bias", canonical + ".bias");
  }

  void add_tower() {
    const TowerNames& names = spec_.tower_names;
    const std::string& prefix = spec_.tower_prefix;
    add_patches(prefix + names.patch);
    if (vision_.class_token)
      add("v.class_embd", prefix + names.class_embedding, {vision_.width}, true,
          [](const at::Tensor& own) { return own.flatten(); });
    if (vision_.positions != nn::VisionPositions::none)
      add_same("v.position_embd.weight", prefix + names.position_table, /*widen=*/true);
    if (vision_.pre_norm) add_module("v.pre_ln", prefix + names.pre_norm);
    if (vision_.post_norm) add_module("v.post_ln", prefix + names.post_norm);
    for (int64_t block = 0; block < blocks(); ++block) {
      const std::string at = visq::format("{}{}{}.", prefix, names.blocks, block);
      const std::string to = visq::format("v.blk.{}.", block);
      add_module(to + "ln1", at + names.norm1);
      add_module(to + "ln2", at + names.norm2);
      add_attention(to, at);
      add_module(to + "attn_out", at + names.out);
      if (vision_.gated_mlp) add_module(to + "ffn_gate", at + names.gate);
      add_module(to + "ffn_up", at + (vision_.gated_mlp ? names.up : names.fc1));
      add_module(to + "ffn_down", at + (vision_.gated_mlp ? names.down : names.fc2));
    }
  }

  // Convolutions are stored wide, because not all of llama.cpp's take BF16.
  void add_patches(const std::string& module) {
    const std::string weight = module + ".weight";
    const int64_t side = vision_.patch;
    const std::vector<int64_t> shape = {vision_.width, 3, side, side};
    if (vision_.temporal_patch == 1) {
      add("v.patch_embd.weight", weight, shape, true,
          [shape](const at::Tensor& own) { return own.reshape(shape); });
    } else {  // one for each of two frames
      for (int64_t frame = 0; frame < vision_.temporal_patch; ++frame)
        add(frame == 0 ? "v.patch_embd.weight" : visq::format("v.patch_embd.weight.{}", frame), weight, shape,
            true, [shape, frame, side](const at::Tensor& own) {
              return own.reshape({shape.front(), 3, -1, side, side}).select(2, frame);
            });
    }
    if (vision_.patch_bias) add_same("v.patch_embd.bias", module + ".bias");
  }

  void add_attention(const std::string& to, const std::string& at) {
    const TowerNames& names = spec_.tower_names;
    if (!vision_.fused_qkv) {
      add_module(to + "attn_q", at + names.q);
      add_module(to + "attn_k", at + names.k);
      add_module(to + "attn_v", at + names.v);
    } else if (projector_ == Projector::qwen3) {
      add_module(to + "attn_qkv", at + names.qkv);
    } else {
      const char* const stems[] = {"attn_q", "attn_k", "attn_v"};
      for (int64_t i = 0; i < 3; ++i)
        for (const char* part : {".weight", ".bias"}) {
          std::vector<int64_t> shape = info(at + names.qkv + part).shape;
          const int64_t rows = shape.front() / 3;
          shape.front() = rows;
          add(to + stems[i] + part, at + names.qkv + part, shape, false,
              [i, rows](const at::Tensor& own) { return own.narrow(0, i * rows, rows); });
        }
    }
  }

  void add_projector() {
    const std::string& prefix = spec_.projector_prefix;
    const auto linears = [&](const nn::ProjectorSpec& chain) {
      std::vector<std::string> names;
      for (const nn::ProjectorOp& op : chain)
        if (op.kind == Kind::linear) names.push_back(op.name);
      return names;
    };
    const auto norm_of = [](const nn::ProjectorSpec& chain) {
      return std::ranges::find_if(chain,
                                  [](const nn::ProjectorOp& op) {
                                    return op.kind == Kind::layer_norm || op.kind == Kind::rms_norm ||
                                           op.kind == Kind::rms_norm_1p;
                                  })
          ->name;
    };
    if (projector_ == Projector::gemma3) {
      add("mm.soft_emb_norm.weight", prefix + norm_of(spec_.projector) + ".weight", {vision_.width}, true,
          [](const at::Tensor& own) { return own + 1; });
      const std::string matrix = prefix + spec_.projector.back().name;
      // Multiplied from the left, as it stands in the files.
      return add_same("mm.input_projection.weight", matrix, /*widen=*/info(matrix).dtype == at::kBFloat16);
    }
    const std::vector<std::string> names = linears(spec_.projector);
    add_module("mm.0", prefix + names.at(0));
    add_module("mm.2", prefix + names.at(1));
    if (projector_ != Projector::llava) add_module("v.post_ln", prefix + norm_of(spec_.projector));
    for (size_t i = 0; i < vision_.deepstack_blocks.size(); ++i) {
      const std::string from = visq::format("{}{}.", spec_.deepstack_prefix, i);
      const std::string to = visq::format("v.deepstack.{}.", vision_.deepstack_blocks[i]);
      add_module(to + "norm", from + norm_of(spec_.deepstack));
      add_module(to + "fc1", from + linears(spec_.deepstack).at(0));
      add_module(to + "fc2", from + linears(spec_.deepstack).at(1));
    }
  }

  const Model& model_;
  const ModelSpec& spec_;
  const nn::VisionSpec& vision_;
  Projector projector_;
  GgufMetadata metadata_;
  std::vector<Part> parts_;
};

}  // namespace

std::string mmproj_refusal(const Model& model) { return choose(model).refusal; }

void write_mmproj(const Model& model, const std::filesystem::path& path) {
  const Choice choice = choose(model);
  if (!choice.refusal.empty()) fail("{}: llama.cpp does not know {}", path.string(), choice.refusal);
  Mmproj(model, choice.projector).write(path);
}

}  // namespace visq
