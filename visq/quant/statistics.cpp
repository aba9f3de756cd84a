#include "visq/quant/statistics.h"

#include <ATen/ATen.h>

#include <utility>

#include "visq/core/error.h"
#include "visq/core/tiled.h"

namespace visq {
namespace {

// Either may be undefined: a modality that has not occurred.
at::Tensor sum_of(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined()) return b;
  return b.defined() ? a + b : a;
}

// Products of 16-bit values are exact in TF32, and tensor cores add them up in fp32: as good as fp32 units,
// many times faster.
class AllowTf32 {
 public:
  explicit AllowTf32(bool allow) : before_(at::globalContext().allowTF32CuBLAS()) {
    if (allow) at::globalContext().setAllowTF32CuBLAS(true);
  }
  ~AllowTf32() { at::globalContext().setAllowTF32CuBLAS(before_); }
  AllowTf32(const AllowTf32&) = delete;
  AllowTf32& operator=(const AllowTf32&) = delete;

 private:
  bool before_;
};

}  // namespace

void TokenStatistics::add(const at::Tensor& x, bool with_gram) {
  if (x.size(0) == 0) return;
  const at::Tensor rows = x.to(at::kFloat);
  const at::Tensor magnitude = rows.abs();
  TokenStatistics batch;
  batch.tokens = x.size(0);
  batch.abs_max = magnitude.amax(0);
  batch.abs_sum = magnitude.sum(0, /*keepdim=*/false, at::kDouble);
  if (with_gram) {
    const AllowTf32 exact(x.is_cuda() && at::isReducedFloatingType(x.scalar_type()));
    // In place: a second matrix of this size would double the peak.
    if (!gram.defined()) gram = at::zeros({x.size(1), x.size(1)}, rows.options());
    add_gram(gram, rows);
  }
  merge(batch);
}

void TokenStatistics::merge(const TokenStatistics& other) {
  if (other.tokens == 0) return;
  abs_max = abs_max.defined() ? at::maximum(abs_max, other.abs_max) : other.abs_max;
  abs_sum = sum_of(abs_sum, other.abs_sum);
  gram = sum_of(gram, other.gram);
  tokens += other.tokens;
}

Statistics::Statistics(TokenStatistics text, TokenStatistics image)
    : with_gram_(text.gram.defined() || image.gram.defined()),
      text_(std::move(text)),
      image_(std::move(image)) {}

void Statistics::add(const at::Tensor& x, const at::Tensor& text_rows, const at::Tensor& image_rows) {
  const bool mixed = text_rows.size(0) > 0 && image_rows.size(0) > 0;
  if (text_rows.size(0) > 0) text_.add(mixed ? x.index_select(0, text_rows) : x, with_gram_);
  if (image_rows.size(0) > 0) image_.add(mixed ? x.index_select(0, image_rows) : x, with_gram_);
}

void Statistics::merge(const Statistics& other) {
  text_.merge(other.text_);
  image_.merge(other.image_);
}

at::Tensor Statistics::abs_max() const {
  if (tokens() == 0) fail("calibration saw no tokens");
  if (!text_.abs_max.defined()) return image_.abs_max;
  return image_.abs_max.defined() ? at::maximum(text_.abs_max, image_.abs_max) : text_.abs_max;
}

at::Tensor Statistics::mean_magnitude() const {
  if (tokens() == 0) fail("calibration saw no tokens");
  return (sum_of(text_.abs_sum, image_.abs_sum) / static_cast<double>(tokens())).to(at::kFloat);
}

at::Tensor Statistics::gram() const { return sum_of(text_.gram, image_.gram); }

}  // namespace visq
