// Runs calibration data through the unquantized model, one decoder layer at a time, and keeps statistics.
#pragma once
#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "visq/families/model.h"
#include "visq/quant/kv_format.h"
#include "visq/quant/statistics.h"

namespace visq {

/// What calibration knows of one routed expert.
struct ExpertStatistics {
  explicit ExpertStatistics(Detail detail) : down(detail) {}
  int64_t text_tokens = 0, image_tokens = 0;  ///< sent to it
  Statistics down;                            ///< of the input of its down projection
  /// Too few tokens were sent to it: `down` is of the layer's tokens instead, run through this expert.
  bool borrowed = false;
  /// Where `down` is borrowed: of the few tokens that were sent to it, which with those of other data may be
  /// enough.
  Statistics few;

  /// As if the tokens of both had been seen together, but for what it borrows: then of all that both have
  /// borrowed.
  void merge(const ExpertStatistics& other);
};

/// Fewer tokens than this, those held out aside, say little of an expert.
inline constexpr int64_t kMinExpertTokens = 64;

/// One sample in so many is held out: which ones depends on the samples alone, not on their order or number.
inline constexpr uint64_t kHeldOutShare = 8;
/// But none of samples with images, or of those without, where there are fewer of them.
inline constexpr int64_t kMinSamplesToHoldOut = 16;

/// What calibration knows of one decoder layer.
struct LayerStatistics {
  explicit LayerStatistics(Detail detail) : experts_in(detail) { inputs.fill(Statistics(detail)); }
  std::array<Statistics, std::size(nn::kInputGroups)> inputs;
  /// What routed experts read, where the router changes it (Llama 4); else they read inputs[mlp_in].
  Statistics experts_in;
  std::vector<ExpertStatistics> experts;  ///< of a sparse layer
  KvCacheStatistics kv_cache;

  /// False for a cross layer when no sample had an image: there is nothing in it.
  bool has_run() const { return of({nn::InputGroup::attn_in}).tokens() > 0; }
  /// Gate and up of all experts have the layer's statistics.
  const Statistics& of(const nn::GroupId& id) const;
  /// @param other  of the same layer
  void merge(const LayerStatistics& other);
};

struct CalibrationOptions {
  std::filesystem::path data;
  int64_t max_samples = 512;  ///< 0: all
  int64_t max_tokens = 2048;  ///< longer text samples are cut, longer image samples left out
  bool text_only = false;     ///< data without images is meant so
};

/// Which samples may be held out.
struct HoldOut {
  bool texts = false, images = false;  ///< those without images; those with some
};

/// The calibration set as hidden states, advanced layer by layer.
class Calibration {
 public:
  /// Reads, encodes and embeds the samples.
  /// @throws Error for a bad sample (names it), when nothing is left, or when no image token was seen (unless
  /// text_only)
  Calibration(const Model& model, const CalibrationOptions& options);

  /// Runs one layer over all samples and gathers what its linears and its cache saw.
  LayerStatistics run_layer(const nn::DecoderLayer& layer, Detail detail);

  int64_t samples() const { return samples_; }
  int64_t left_out() const { return left_out_; }
  int64_t text_tokens() const { return text_tokens_; }
  /// Where cross layers read the images: vision rows.
  int64_t image_tokens() const { return image_tokens_; }

 private:
  struct Chunk {
    Batch batch;
    TokenRows rows;
  };
  const Model& model_;
  HoldOut hold_out_;
  std::vector<Chunk> chunks_;
  int64_t samples_ = 0, left_out_ = 0, text_tokens_ = 0, image_tokens_ = 0;

  void add_chunk(const std::vector<EncodedSample>& samples);
};

}  // namespace visq
