// A checkpoint that can be run: reads weights by name, calls nn. Holds the tower, the embedding and the head;
// decoder layers are loaded one at a time, so that calibration needs one layer's memory.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "visq/families/family.h"
#include "visq/families/names.h"
#include "visq/inputs/image_processor.h"
#include "visq/inputs/samples.h"
#include "visq/inputs/tokenizer.h"
#include "visq/inputs/video_processor.h"
#include "visq/io/checkpoint.h"
#include "visq/nn/decoder.h"

namespace visq {

struct VisionParts;  // model_parts.h

/// One sample as the model reads it.
struct EncodedSample {
  std::vector<int64_t> ids;  ///< image and video placeholders expanded to one id per image or video token
  std::vector<ProcessedImage> images;  ///< and videos, in the order of their tokens
  int64_t prompt_tokens = 0;           ///< ids[prompt_tokens …] are the reference answer and the end token
};

/// What the images and videos of a batch give to the text model, images one after the other.
struct ImageFeatures {
  at::Tensor rows;                    ///< [image tokens, hidden]
  std::vector<at::Tensor> deepstack;  ///< as Batch::deepstack
};

/// Longest sample that is accepted, in tokens.
inline constexpr int64_t kMaxSampleTokens = 32768;

/// Sequences laid end to end, on their way through the decoder.
struct Batch {
  at::Tensor hidden;      ///< [tokens, hidden]: embeddings with image features merged in
  at::Tensor positions;   ///< int64 [axes, tokens]
  nn::RopeTable rope;     ///< of the positions
  at::Tensor blocks;      ///< int64 [tokens]: tokens that see one another (decoder_layer); may be undefined
  at::Tensor image_mask;  ///< bool [tokens]: true at image and video tokens
  at::Tensor adapted;     ///< [tokens, 1]: 1 in sequences with images; undefined: the model has no adapter
  /// [image tokens, hidden] each: entry j is added to the rows of image_mask behind decoder layer j.
  std::vector<at::Tensor> deepstack;
  nn::CrossInput vision;               ///< what cross layers read; images are then not in the sequence
  std::vector<int64_t> offsets;        ///< sequences + 1
  std::vector<int64_t> next_position;  ///< per sequence: position of the next generated token
};

class Model {
 public:
  /// Loads a decoder linear by module name in the files, in the compute dtype and on the device; replaceable
  /// so that quantized checkpoints can be simulated.
  using LinearLoader = std::function<nn::Linear(const std::string& module)>;

  /// @param checkpoint  outlives the model
  /// @param loader  how load_layer() gets its linears; empty: as they are in the files. With a loader, the
  ///                tensors of the decoder linears are its business and not checked here.
  /// @throws Error for an unsupported architecture, a missing tensor, or a shape that contradicts config.json
  ///         (names the tensor and both shapes). All shapes are checked here, before any work.
  Model(const Checkpoint& checkpoint, at::Device device, at::ScalarType compute_dtype,
        LinearLoader loader = {}, ImageProfile image_profile = ImageProfile::tv);

  const ModelSpec& spec() const { return spec_; }
  const NameMap& names() const { return names_; }
  const Checkpoint& checkpoint() const { return checkpoint_; }
  const Tokenizer& tokenizer() const;
  at::Device device() const { return device_; }
  at::ScalarType dtype() const { return dtype_; }

  /// Renders the prompt, expands placeholders, tokenizes, processes the images and videos.
  /// @param with_answer  appends the reference answer and the end token (when the sample has one)
  /// @throws Error naming the sample
  EncodedSample encode(const Sample& sample, bool with_answer) const;

  /// Rows that a sample brings into the decoder: its tokens, and the vision rows of cross layers.
  int64_t rows_of(const EncodedSample& sample) const;

  /// Tower + projector + embedding + merge.
  /// @throws Error when image tokens and image features differ in number
  Batch embed(std::span<const EncodedSample> samples) const;
  /// Single new tokens (generation): one a sequence, at the given positions.
  /// @param pictured  whether the sequence has images
  Batch embed_next(const std::vector<int64_t>& ids, const std::vector<int64_t>& positions,
                   const std::vector<bool>& pictured) const;
  /// Image features after the tower (before the projector; Qwen2.5-VL: in window order), [rows, width].
  at::Tensor tower_features(const std::vector<ProcessedImage>& images) const;
  /// After projector and layout.
  ImageFeatures image_features(const std::vector<ProcessedImage>& images) const;

  /// Puts the adapter of samples with images into the weights of the decoder linears: from then on all
  /// samples run with it, and nothing is added beside them. Before any other use; only without a
  /// LinearLoader.
  /// @throws Error when the model has no such adapter
  void merge_image_adapter();
  /// The adapter that merge_image_adapter() put there; nullptr: none.
  const AdapterSpec* merged_adapter() const;
  std::string merged_adapter_name() const;  ///< "": none
  /// Name in the files of a matrix ("lora_A", "lora_B") of an adapter beside a decoder linear.
  std::string adapter_tensor(int64_t layer, const nn::LinearId& id, const AdapterSpec& adapter,
                             const std::string& matrix) const;
  /// Weight of a decoder linear as it shall be quantized: [out, in] in the type of the files, on the CPU.
  at::Tensor linear_weight(int64_t layer, const nn::LinearId& id) const;

  nn::DecoderLayer load_layer(int64_t index) const;
  /// The batch after one more layer.
  void advance(Batch& batch, const nn::DecoderLayer& layer, const nn::LayerObserver* observer = nullptr,
               nn::KvCache* cache = nullptr) const;
  /// A plain linear from the files. @throws Error when its weight is absent or packed
  nn::Linear load_linear(const std::string& module) const;
  /// Final norm and head. @param hidden [tokens, hidden] → [tokens, vocab] (float32)
  at::Tensor logits(const at::Tensor& hidden) const;

 private:
  const Checkpoint& checkpoint_;
  ModelSpec spec_;
  NameMap names_;
  at::Device device_;
  at::ScalarType dtype_;
  LinearLoader loader_;
  ImageProfile image_profile_;
  bool merged_ = false;  // the adapter of samples with images, into the weights
  struct Parts;
  std::shared_ptr<Parts> parts_;  // tokenizer, processor, tower, head, each loaded when first needed

  const ImageProcessor& image_processor() const;
  const VideoProcessor& video_processor() const;
  ProcessedImage process(const ContentPart& part, const Sample& sample) const;
  void check_placeholder(bool video) const;
  std::vector<int64_t> tokenize_text(const std::string& text) const;
  std::vector<int64_t> tokenize(const std::string& text, std::span<const ProcessedImage> images) const;
  at::Tensor stored(const std::string& canonical) const;  // as in the file
  at::Tensor weight(const std::string& canonical) const;  // in the compute dtype, on the device
  nn::Norm load_norm(const std::string& canonical_module) const;
  nn::Linear load_canonical(const std::string& canonical_module) const;
  nn::VisionTower load_tower() const;
  nn::Projector load_chain(const std::string& prefix, const nn::ProjectorSpec& chain) const;
  VisionParts load_vision() const;
  const VisionParts& vision() const;
  at::Tensor pack(const at::Tensor& rows, std::span<const ProcessedImage> images) const;
  at::Tensor adapted_tokens(const std::vector<bool>& pictured) const;
  nn::Adapter load_adapter(int64_t layer, const nn::LinearId& id) const;
  at::Tensor embed_rows(const std::vector<int64_t>& ids) const;
};

}  // namespace visq
