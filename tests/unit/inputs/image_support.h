// The picture whose checksums spec/inputs.md §8 lists.
#pragma once
#include <ATen/ATen.h>

#include "support.h"

namespace visq::test {

/// (3x + 5y + 40c + ((x·y) >> 6)) mod 256. [3, height, width]
inline at::Tensor test_picture(int64_t width, int64_t height) {
  const auto x = at::arange(width).view({1, 1, width}), y = at::arange(height).view({1, height, 1});
  const auto c = at::arange(3).view({3, 1, 1});
  return (x * 3 + y * 5 + c * 40 + at::bitwise_right_shift(x * y, 6)).remainder(256).to(at::kByte);
}

inline uint32_t crc_of(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous();
  return crc32(flat.data_ptr(), flat.nbytes());
}

}  // namespace visq::test
