// The codecs on CPU tensors: output tensors, and loops over runs or rows on the threads. Every number is
// computed by itself, so the result does not depend on how the runs are cut.
#include <ATen/ATen.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>

#include "visq/core/parallel.h"
#include "visq/quant/codec_backend.h"
#include "visq/quant/cpu/codec_kernels.h"
#include "visq/quant/cpu/narrow_codes.h"

namespace visq {
namespace {

constexpr int64_t kRun = 256;           // elements: whole blocks of 16 or 32
constexpr int64_t kGrain = 128 * kRun;  // elements worth a thread

/// body(begin, end) for element ranges that start at multiples of kRun.
template <class Body>
void for_runs(int64_t n, const Body& body) {
  parallel_for((n + kRun - 1) / kRun, kGrain / kRun,
               [&](int64_t begin, int64_t end) { body(begin * kRun, std::min(n, end * kRun)); });
}

/// body(row).
template <class Body>
void for_rows(int64_t rows, int64_t columns, const Body& body) {
  parallel_for(rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, columns)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end; ++row) body(row);
               });
}

const void* at_element(const at::Tensor& x, int64_t element) {
  return static_cast<const char*>(x.const_data_ptr()) + element * x.element_size();
}
void* at_element_mutable(const at::Tensor& x, int64_t element) {
  return static_cast<char*>(x.mutable_data_ptr()) + element * x.element_size();
}
const uint8_t* bytes_of(const at::Tensor& x) { return static_cast<const uint8_t*>(x.const_data_ptr()); }
uint8_t* bytes_of_mutable(const at::Tensor& x) { return static_cast<uint8_t*>(x.mutable_data_ptr()); }

/// The larger one; a NaN when there is one.
float larger(float a, float b) { return std::isnan(a) || a > b ? a : b; }

float absolute_maximum(const at::Tensor& x) {
  float largest = 0;
  std::mutex mutex;
  for_runs(x.numel(), [&](int64_t begin, int64_t end) {
    const float part = kernels::absolute_maximum(at_element(x, begin), x.scalar_type(), end - begin);
    const std::lock_guard lock(mutex);
    largest = larger(largest, part);
  });
  return largest;
}

at::Tensor encode_fp8(const at::Tensor& weight, float scale) {
  at::Tensor codes = at::empty(weight.sizes(), at::kFloat8_e4m3fn);
  for_runs(weight.numel(), [&](int64_t begin, int64_t end) {
    kernels::encode_fp8(at_element(weight, begin), weight.scalar_type(), end - begin, scale,
                        bytes_of_mutable(codes) + begin);
  });
  return codes;
}

/// body(row block, column block, rows, columns): what a block covers.
template <class Body>
void for_blocks(const at::Tensor& matrix, int64_t block_rows, int64_t block_columns, const Body& body) {
  struct Range {
    int64_t begin, end;
  };
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  const int64_t down = (rows + block_rows - 1) / block_rows;
  const int64_t across = (columns + block_columns - 1) / block_columns;
  for_rows(down, block_rows * columns, [&](int64_t r) {
    const Range covered{r * block_rows, std::min(rows, (r + 1) * block_rows)};
    for (int64_t c = 0; c < across; ++c)
      body(r * across + c, covered, Range{c * block_columns, std::min(columns, (c + 1) * block_columns)});
  });
}

EncodedMatrix encode_fp8_blocks(const at::Tensor& weight, int64_t block_rows, int64_t block_columns,
                                at::ScalarType scale_dtype) {
  const int64_t columns = weight.size(1);
  EncodedMatrix result{at::empty(weight.sizes(), at::kFloat8_e4m3fn),
                       at::empty({(weight.size(0) + block_rows - 1) / block_rows,
                                  (columns + block_columns - 1) / block_columns},
                                 at::kFloat)};
  float* scales = result.scale.mutable_data_ptr<float>();
  std::atomic<bool> finite = true;
  for_blocks(weight, block_rows, block_columns, [&](int64_t block, const auto& rows, const auto& run) {
    const int64_t length = run.end - run.begin;
    float amax = 0;
    for (int64_t row = rows.begin; row < rows.end; ++row)
      amax = larger(amax, kernels::absolute_maximum(at_element(weight, row * columns + run.begin),
                                                    weight.scalar_type(), length));
    if (!std::isfinite(amax)) finite = false;
    scales[block] = scale_for(amax, 448.0f, scale_dtype);
    for (int64_t row = rows.begin; row < rows.end; ++row)
      kernels::encode_fp8(at_element(weight, row * columns + run.begin), weight.scalar_type(), length,
                          scales[block], bytes_of_mutable(result.codes) + row * columns + run.begin);
  });
  result.finite = finite;
  return result;
}

EncodedMatrix encode_int(const at::Tensor& weight, int64_t block, int code_max, at::ScalarType scale_dtype) {
  const int64_t rows = weight.size(0), columns = weight.size(1), blocks = columns / block;
  EncodedMatrix result{at::empty({rows, columns}, at::kChar), at::empty({rows, blocks}, at::kFloat)};
  float* scales = result.scale.mutable_data_ptr<float>();
  int8_t* codes = result.codes.mutable_data_ptr<int8_t>();
  std::atomic<bool> finite = true;
  for_rows(rows, columns, [&](int64_t row) {
    const float amax =
        kernels::encode_int_row(at_element(weight, row * columns), weight.scalar_type(), columns, block,
                                code_max, scale_dtype, scales + row * blocks, codes + row * columns);
    if (!std::isfinite(amax)) finite = false;
  });
  result.finite = finite;
  return result;
}

EncodedMatrix encode_int4_asym(const at::Tensor& weight, int64_t block, at::ScalarType scale_dtype) {
  const int64_t rows = weight.size(0), columns = weight.size(1), blocks = columns / block;
  EncodedMatrix result{at::empty({rows, columns}, at::kChar), at::empty({rows, blocks}, at::kFloat), true,
                       at::empty({rows, blocks}, at::kChar)};
  float* scales = result.scale.mutable_data_ptr<float>();
  int8_t* zeros = result.zero_point.mutable_data_ptr<int8_t>();
  int8_t* codes = result.codes.mutable_data_ptr<int8_t>();
  std::atomic<bool> finite = true;
  for_rows(rows, columns, [&](int64_t row) {
    const float amax = kernels::encode_int4_asym_row(at_element(weight, row * columns), weight.scalar_type(),
                                                     columns, block, scale_dtype, scales + row * blocks,
                                                     zeros + row * blocks, codes + row * columns);
    if (!std::isfinite(amax)) finite = false;
  });
  result.finite = finite;
  return result;
}

EncodedMatrix encode_nvfp4(const at::Tensor& weight, int64_t block, float scale_2) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  EncodedMatrix result{at::empty({rows, columns / 2}, at::kByte),
                       at::empty({rows, columns / block}, at::kFloat8_e4m3fn)};
  for_runs(weight.numel(), [&](int64_t begin, int64_t end) {
    kernels::encode_nvfp4(at_element(weight, begin), weight.scalar_type(), end - begin, block, scale_2,
                          bytes_of_mutable(result.codes) + begin / 2,
                          bytes_of_mutable(result.scale) + begin / block);
  });
  return result;
}

EncodedMatrix encode_mx(const at::Tensor& weight, Codec codec) {
  const int64_t rows = weight.size(0), columns = weight.size(1), bits = mx_bits(codec);
  EncodedMatrix result{at::empty({rows, columns * bits / 8}, mx_dtype(codec)),
                       at::empty({rows, columns / kMxBlock}, at::kByte)};
  std::atomic<bool> finite = true;
  for_runs(weight.numel(), [&](int64_t begin, int64_t end) {
    const float amax = kernels::encode_mx(at_element(weight, begin), weight.scalar_type(), end - begin, codec,
                                          bytes_of_mutable(result.codes) + begin * bits / 8,
                                          bytes_of_mutable(result.scale) + begin / kMxBlock);
    if (!std::isfinite(amax)) finite = false;
  });
  result.finite = finite;
  return result;
}

at::Tensor decode_fp8(const at::Tensor& codes, const at::Tensor& scale, at::ScalarType dtype) {
  at::Tensor values = at::empty(codes.sizes(), dtype);
  const float factor = scale.item<float>();
  for_runs(codes.numel(), [&](int64_t begin, int64_t end) {
    kernels::decode_fp8(bytes_of(codes) + begin, end - begin, factor, dtype,
                        at_element_mutable(values, begin));
  });
  return values;
}

at::Tensor decode_fp8_blocks(const at::Tensor& codes, const at::Tensor& scale, int64_t block_rows,
                             int64_t block_columns, at::ScalarType dtype) {
  const int64_t columns = codes.size(1);
  at::Tensor values = at::empty(codes.sizes(), dtype);
  const float* factors = scale.const_data_ptr<float>();
  for_blocks(codes, block_rows, block_columns, [&](int64_t block, const auto& rows, const auto& run) {
    for (int64_t row = rows.begin; row < rows.end; ++row)
      kernels::decode_fp8(bytes_of(codes) + row * columns + run.begin, run.end - run.begin, factors[block],
                          dtype, at_element_mutable(values, row * columns + run.begin));
  });
  return values;
}

at::Tensor decode_int(const at::Tensor& codes, const at::Tensor& scale, at::ScalarType dtype) {
  const int64_t rows = codes.size(0), columns = codes.size(1);
  const int64_t blocks = scale.numel() / rows, block = columns / blocks;
  at::Tensor values = at::empty(codes.sizes(), dtype);
  const int8_t* code = codes.const_data_ptr<int8_t>();
  const float* factor = scale.const_data_ptr<float>();
  for_rows(rows, columns, [&](int64_t row) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t begin = row * columns + b * block;
      kernels::decode_int(code + begin, block, factor[row * blocks + b], dtype,
                          at_element_mutable(values, begin));
    }
  });
  return values;
}

at::Tensor decode_nvfp4(const at::Tensor& codes, const at::Tensor& scale, const at::Tensor& scale_2,
                        at::ScalarType dtype) {
  at::Tensor values = at::empty({codes.size(0), codes.size(1) * 2}, dtype);
  const int64_t block = values.size(1) / scale.size(1);
  const float factor = scale_2.item<float>();
  for_runs(values.numel(), [&](int64_t begin, int64_t end) {
    kernels::decode_nvfp4(bytes_of(codes) + begin / 2, bytes_of(scale) + begin / block, end - begin, block,
                          factor, dtype, at_element_mutable(values, begin));
  });
  return values;
}

at::Tensor decode_mx(const at::Tensor& codes, const at::Tensor& scale, Codec codec, at::ScalarType dtype) {
  const int64_t bits = mx_bits(codec);
  at::Tensor values = at::empty({codes.size(0), codes.size(1) * 8 / bits}, dtype);
  for_runs(values.numel(), [&](int64_t begin, int64_t end) {
    kernels::decode_mx(bytes_of(codes) + begin * bits / 8, bytes_of(scale) + begin / kMxBlock, end - begin,
                       codec, dtype, at_element_mutable(values, begin));
  });
  return values;
}

using Simulate = void (*)(const void*, at::ScalarType, int64_t, float, void*);

template <Simulate kernel>
at::Tensor simulate(const at::Tensor& x, float scale) {
  at::Tensor y = at::empty(x.sizes(), x.scalar_type());
  for_runs(x.numel(), [&](int64_t begin, int64_t end) {
    kernel(at_element(x, begin), x.scalar_type(), end - begin, scale, at_element_mutable(y, begin));
  });
  return y;
}

at::Tensor simulate_mx(const at::Tensor& x, Codec codec) {
  at::Tensor y = at::empty(x.sizes(), x.scalar_type());
  for_runs(x.numel(), [&](int64_t begin, int64_t end) {
    kernels::simulate_mx(at_element(x, begin), x.scalar_type(), end - begin, codec,
                         at_element_mutable(y, begin));
  });
  return y;
}

// Each token by the scale that maps its largest magnitude to `largest`.
template <Simulate kernel>
at::Tensor simulate_tokens(const at::Tensor& x, float largest) {
  const int64_t columns = x.size(-1), tokens = x.numel() / std::max<int64_t>(1, columns);
  at::Tensor y = at::empty(x.sizes(), x.scalar_type());
  for_rows(tokens, columns, [&](int64_t token) {
    const void* const from = at_element(x, token * columns);
    const float amax = kernels::absolute_maximum(from, x.scalar_type(), columns);
    kernel(from, x.scalar_type(), columns, scale_for(amax, largest, at::kFloat),
           at_element_mutable(y, token * columns));
  });
  return y;
}
at::Tensor simulate_fp8_tokens(const at::Tensor& x) {
  return simulate_tokens<kernels::simulate_fp8>(x, kFp8Max);
}
at::Tensor simulate_int8_tokens(const at::Tensor& x) {
  return simulate_tokens<kernels::simulate_int8>(x, 127.0f);
}

at::Tensor int4_to_row_pairs(const at::Tensor& codes) {
  const int64_t columns = codes.size(1);
  at::Tensor bytes = at::empty({codes.size(0) / 2, columns}, at::kByte);
  const int8_t* from = codes.const_data_ptr<int8_t>();
  uint8_t* to = bytes.mutable_data_ptr<uint8_t>();
  for_rows(bytes.size(0), 2 * columns, [&](int64_t pair) {
    const int8_t* even = from + 2 * pair * columns;
    const int8_t* odd = even + columns;
    uint8_t* out = to + pair * columns;
    for (int64_t c = 0; c < columns; ++c) out[c] = static_cast<uint8_t>((even[c] & 15) | (odd[c] << 4));
  });
  return bytes;
}

at::Tensor int4_from_row_pairs(const at::Tensor& bytes) {
  const int64_t columns = bytes.size(1);
  at::Tensor codes = at::empty({bytes.size(0) * 2, columns}, at::kChar);
  const uint8_t* from = bytes.const_data_ptr<uint8_t>();
  int8_t* to = codes.mutable_data_ptr<int8_t>();
  for_rows(bytes.size(0), 2 * columns, [&](int64_t pair) {
    const uint8_t* in = from + pair * columns;
    int8_t* even = to + 2 * pair * columns;
    int8_t* odd = even + columns;
    for (int64_t c = 0; c < columns; ++c) {  // the exclusive or and the subtraction extend the nibble's sign
      even[c] = static_cast<int8_t>(((in[c] & 15) ^ 8) - 8);
      odd[c] = static_cast<int8_t>(((in[c] >> 4) ^ 8) - 8);
    }
  });
  return codes;
}

constexpr uint64_t kEights = 0x0808080808080808;

at::Tensor int4_to_words(const at::Tensor& codes) {
  at::Tensor words = at::empty({codes.size(0), codes.size(1) / 8}, at::kInt);
  const int8_t* from = codes.const_data_ptr<int8_t>();
  int32_t* to = words.mutable_data_ptr<int32_t>();
  for_runs(words.numel(), [&](int64_t begin, int64_t end) {
    for (int64_t w = begin; w < end; ++w) {
      uint64_t eight;
      std::memcpy(&eight, from + 8 * w, sizeof(eight));
      // −8…7 plus 8 is the low nibble with its top bit flipped.
      to[w] = static_cast<int32_t>(join_nibbles((eight & 0x0F0F0F0F0F0F0F0F) ^ kEights));
    }
  });
  return words;
}

at::Tensor int4_from_words(const at::Tensor& words) {
  at::Tensor codes = at::empty({words.size(0), words.size(1) * 8}, at::kChar);
  const int32_t* from = words.const_data_ptr<int32_t>();
  int8_t* to = codes.mutable_data_ptr<int8_t>();
  for_runs(words.numel(), [&](int64_t begin, int64_t end) {
    for (int64_t w = begin; w < end; ++w) {
      const uint64_t low = split_nibbles(static_cast<uint32_t>(from[w])) ^ kEights;
      const uint64_t eight = low | ((low & kEights) * 0x1E);  // bit 3 copied to bits 4–7: the sign
      std::memcpy(to + 8 * w, &eight, sizeof(eight));
    }
  });
  return codes;
}

}  // namespace

const CodecBackend& cpu_codecs() {
  static constexpr CodecBackend backend = {
      .absolute_maximum = absolute_maximum,
      .encode_fp8 = encode_fp8,
      .encode_fp8_blocks = encode_fp8_blocks,
      .encode_int = encode_int,
      .encode_int4_asym = encode_int4_asym,
      .encode_nvfp4 = encode_nvfp4,
      .encode_mx = encode_mx,
      .decode_fp8 = decode_fp8,
      .decode_fp8_blocks = decode_fp8_blocks,
      .decode_int = decode_int,
      .decode_nvfp4 = decode_nvfp4,
      .decode_mx = decode_mx,
      .simulate_fp8 = simulate<kernels::simulate_fp8>,
      .simulate_fp8_tokens = simulate_fp8_tokens,
      .simulate_int8 = simulate<kernels::simulate_int8>,
      .simulate_int8_tokens = simulate_int8_tokens,
      .simulate_nvfp4 = simulate<kernels::simulate_nvfp4>,
      .simulate_mx = simulate_mx,
      .int4_to_row_pairs = int4_to_row_pairs,
      .int4_from_row_pairs = int4_from_row_pairs,
      .int4_to_words = int4_to_words,
      .int4_from_words = int4_from_words,
  };
  return backend;
}

}  // namespace visq
