// What calibration keeps of a linear's input: small sums and maxima, per modality, that add up over batches.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace visq {

/// Additive statistics of token rows x ∈ R^channels.
struct TokenStatistics {
  int64_t tokens = 0;
  at::Tensor abs_max;  ///< f32 [channels]: max |x|
  at::Tensor abs_sum;  ///< f64 [channels]: Σ |x|
  at::Tensor gram;     ///< f32 [channels, channels]: Σ x xᵀ; undefined unless asked for

  /// @param x  [tokens, channels]; nothing happens when it has no rows
  void add(const at::Tensor& x, bool with_gram);
  void merge(const TokenStatistics& other);
};

/// Statistics of one input group, text and image tokens apart.
class Statistics {
 public:
  explicit Statistics(bool with_gram = false) : with_gram_(with_gram) {}
  /// Of tokens seen before.
  Statistics(TokenStatistics text, TokenStatistics image);

  /// @param x           [tokens, channels]
  /// @param image_rows  int64: rows of x at image tokens; text_rows: the others
  void add(const at::Tensor& x, const at::Tensor& text_rows, const at::Tensor& image_rows);
  void merge(const Statistics& other);

  const TokenStatistics& text() const { return text_; }
  const TokenStatistics& image() const { return image_; }
  /// Both modalities together. The Gram matrix is summed on each call: a caller that needs it twice keeps it.
  int64_t tokens() const { return text_.tokens + image_.tokens; }
  at::Tensor abs_max() const;         ///< f32 [channels]
  at::Tensor mean_magnitude() const;  ///< f32 [channels]
  at::Tensor gram() const;            ///< f32 [channels, channels]

 private:
  bool with_gram_;
  TokenStatistics text_, image_;
};

}  // namespace visq
