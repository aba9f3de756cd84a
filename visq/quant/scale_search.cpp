#include "visq/quant/scale_search.h"

#include <ATen/ATen.h>

#include <functional>

#include "visq/core/error.h"
#include "visq/core/tiled.h"
#include "visq/quant/grid.h"

namespace visq {
namespace {

constexpr int64_t kShare = 1 << 18;     // weights that a thread takes at a time
constexpr int64_t kSmallestNormal = 8;  // code of 2^-6: below it, the half of a number may not be one
constexpr int64_t kLargestE4m3 = 126;   // code of 448
constexpr int64_t kE4m3Octave = 8;      // codes from a number to its double

// One thread's rows: blocks [rows, blocks, columns a block] and what they are judged by.
struct Blocks {
  Codec codec;
  at::Tensor values;      // f32
  at::Tensor zero_point;  // f32 [rows, blocks]; undefined: none
  at::Tensor hessian;     // f32 [blocks, columns a block, columns a block]; undefined: the identity

  // [rows, blocks]: the error under a step for each block
  at::Tensor error(const at::Tensor& step) const {
    const Grid grid =
        Grid{codec, step, zero_point}.as([](const at::Tensor& all) { return all.unsqueeze(-1); });
    const at::Tensor difference = grid.nearest(values).sub_(values);
    if (!hessian.defined()) return difference.square_().sum(-1);
    const at::Tensor by_block = difference.transpose(0, 1);  // [blocks, rows, columns a block]
    return (at::bmm(by_block, hessian) * by_block).sum(-1).t();
  }
};

// The blocks on the diagonal. [blocks, block, block]
at::Tensor diagonal_blocks(const at::Tensor& gram, int64_t block) {
  const int64_t count = gram.size(0) / block;
  return gram.view({count, block, count, block}).diagonal(0, 0, 2).permute({2, 0, 1}).contiguous();
}

at::Tensor e4m3_number(const at::Tensor& code) {
  return code.to(at::kByte).view(at::kFloat8_e4m3fn).to(at::kFloat);
}

/// The best of a row of E4M3 codes for each block. Candidates beside `code` are taken as long as `promising`
/// says that a larger or smaller one may win. @param code  int32 [rows, blocks], where the search begins
class E4m3Search {
 public:
  E4m3Search(const Blocks& blocks, at::Tensor code, const at::Tensor& scale_2)
      : blocks_(blocks), start_(std::move(code)), best_(start_), scale_2_(scale_2), loss_(error(start_)) {}

  void try_code(const at::Tensor& code, const at::Tensor& wanted, bool wins_ties) {
    const at::Tensor loss = error(code);
    const at::Tensor better = wanted & (wins_ties ? loss <= loss_ : loss < loss_);
    best_ = at::where(better, code, best_);
    loss_ = at::where(better, loss, loss_);
  }

  // What can win is below twice the block's amax: above it, the numbers of half the step hold all that occur.
  // The smaller of two equals counts. Codes without a half are all tried.
  void up(const at::Tensor& amax) {
    for (int64_t offset = 1;; ++offset) {
      const at::Tensor code = start_ + offset;
      const at::Tensor wanted =
          (code <= kLargestE4m3) & ((amax_of(code) < 2 * amax) | (code < 2 * kSmallestNormal + kE4m3Octave));
      if (!wanted.any().item<bool>()) return;
      try_code(code.clamp_max(kLargestE4m3), wanted, /*wins_ties=*/false);
    }
  }
  // A smaller number clips the block's largest weight; once that alone costs more than the best, none below
  // wins.
  void down(const at::Tensor& amax) {
    for (int64_t offset = 1;; ++offset) {
      const at::Tensor code = start_ - offset;
      const at::Tensor wanted = (code >= 1) & ((amax - amax_of(code)).clamp_min(0).square() <= loss_);
      if (!wanted.any().item<bool>()) return;
      try_code(code.clamp_min(1), wanted, /*wins_ties=*/true);
    }
  }
  // An octave to either side.
  void around() {
    for (int64_t offset = 1; offset <= kE4m3Octave; ++offset)
      try_code((start_ + offset).clamp_max(kLargestE4m3), start_ + offset <= kLargestE4m3, false);
    for (int64_t offset = 1; offset <= kE4m3Octave; ++offset)
      try_code((start_ - offset).clamp_min(1), start_ - offset >= 1, true);
  }
  const at::Tensor& best() const { return best_; }

 private:
  at::Tensor error(const at::Tensor& code) const { return blocks_.error(e4m3_number(code) * scale_2_); }
  // The largest weight that a block scale represents.
  at::Tensor amax_of(const at::Tensor& code) const {
    return e4m3_number(code.clamp(1, kLargestE4m3)) * scale_2_ * 6.0;
  }

  const Blocks& blocks_;
  at::Tensor start_, best_, scale_2_, loss_;
};

at::Tensor search_nvfp4(ScaleSearch search, const Blocks& blocks, const at::Tensor& scale,
                        const at::Tensor& scale_2) {
  const at::Tensor amax = blocks.values.abs().amax(-1);
  E4m3Search e4m3(blocks, scale.view(at::kByte).to(at::kInt), scale_2);
  if (search == ScaleSearch::four_over_six) {
    const at::Tensor larger = (amax * 1.5 / (scale_2 * 6.0)).clamp(0x1p-9, kFp8Max).to(at::kFloat8_e4m3fn);
    e4m3.try_code(larger.view(at::kByte).to(at::kInt), amax > 0, /*wins_ties=*/false);
  } else if (search == ScaleSearch::mse) {
    e4m3.up(amax);
    e4m3.down(amax);
  } else {
    e4m3.around();
  }
  return e4m3.best().to(at::kByte).view(at::kFloat8_e4m3fn);
}

at::Tensor search_integer(const Blocks& blocks, const at::Tensor& scale, at::ScalarType scale_dtype) {
  at::Tensor best = scale, loss = blocks.error(scale);
  for (int percent = 95; percent >= 50; percent -= 5) {
    // As it is stored; scales of the smallest blocks stay as they are rather than become 0.
    const at::Tensor stored = (scale * (percent / 100.0)).to(scale_dtype).to(at::kFloat);
    const at::Tensor candidate = at::where(stored > 0, stored, scale);
    const at::Tensor error = blocks.error(candidate), better = error < loss;
    best = at::where(better, candidate, best);
    loss = at::where(better, error, loss);
  }
  return best;
}

}  // namespace

PackedTensor search_scales(ScaleSearch search, const PackedTensor& packed, const at::Tensor& weight,
                           const at::Tensor& gram, at::ScalarType scale_dtype) {
  if (search == ScaleSearch::max) return packed;
  const bool fp4 = packed.codec == Codec::nvfp4;
  if (!fp4 && packed.codec != Codec::int4 && packed.codec != Codec::int4_asym && packed.codec != Codec::int8)
    fail("{} has no scales to search", codec_name(packed.codec));
  const int64_t rows = packed.rows, block = step_columns(packed);
  const at::Tensor values = weight.to(at::kFloat).view({rows, -1, block});
  at::Tensor hessian;
  if (search == ScaleSearch::output_error) {
    if (!gram.defined()) fail("a search by output error needs a Gram matrix");
    hessian = diagonal_blocks(gram, block);
  }
  PackedTensor result = packed;
  const at::Tensor before = packed.scale.view({rows, -1}), zero_point = grid_of_blocks(packed).zero_point;
  result.scale = at::empty_like(before);
  parallel_tiles(rows, std::max<int64_t>(1, kShare / packed.columns), [&](int64_t begin, int64_t count) {
    const Blocks blocks{packed.codec, values.narrow(0, begin, count),
                        zero_point.defined() ? zero_point.narrow(0, begin, count) : zero_point, hessian};
    const at::Tensor part = before.narrow(0, begin, count).contiguous();
    result.scale.narrow(0, begin, count)
        .copy_(fp4 ? search_nvfp4(search, blocks, part, packed.scale_2)
                   : search_integer(blocks, part, scale_dtype));
  });
  result.scale = result.scale.view(packed.scale.sizes());
  return repack(result, weight.to(at::kFloat));
}

}  // namespace visq
