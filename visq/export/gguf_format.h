// The numbers and names of GGUF, the file format of llama.cpp: version 3, little-endian.
// Source: spec/export.md §6.4; docs/gguf.md of ggml and the Python package `gguf`, which are the format's
// definition.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace visq {

inline constexpr uint32_t kGgufMagic = 0x46554747;  // "GGUF"
inline constexpr uint32_t kGgufVersion = 3;
inline constexpr uint64_t kGgufAlignment = 32;  ///< where general.alignment does not say
inline constexpr const char* kGgufAlignmentKey = "general.alignment";
inline constexpr size_t kMaxGgufDimensions = 4;
inline constexpr size_t kMaxGgufName = 64;  ///< bytes of a tensor's name, with a terminating zero

enum class GgufValueType : uint32_t {
  uint8,
  int8,
  uint16,
  int16,
  uint32,
  int32,
  float32,
  boolean,
  string,
  array,
  uint64,
  int64,
  float64
};

/// A value of the metadata. Integers and floats of any width are read as the widest; `type` says what the
/// file has, or is to have (of lists: that of their entries).
struct GgufValue {
  using Data =
      std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<uint64_t>, std::vector<int64_t>,
                   std::vector<double>, std::vector<bool>, std::vector<std::string>>;
  GgufValueType type = GgufValueType::uint32;
  Data data;
  bool is_list() const { return data.index() >= 5; }

  static GgufValue u32(uint64_t value) { return {GgufValueType::uint32, value}; }
  static GgufValue f32(double value) { return {GgufValueType::float32, value}; }
  static GgufValue flag(bool value) { return {GgufValueType::boolean, value}; }
  static GgufValue text(std::string value) { return {GgufValueType::string, std::move(value)}; }
  static GgufValue texts(std::vector<std::string> values) {
    return {GgufValueType::string, std::move(values)};
  }
  static GgufValue i32s(std::vector<int64_t> values) { return {GgufValueType::int32, std::move(values)}; }
  static GgufValue f32s(std::vector<double> values) { return {GgufValueType::float32, std::move(values)}; }
  static GgufValue flags(std::vector<bool> values) { return {GgufValueType::boolean, std::move(values)}; }
};
/// In the order of the file.
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

/// Element types of tensors that visq reads, by their numbers; not all are written (gguf_dequantize.h).
enum class GgmlType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  iq4_xs = 23,
  bf16 = 30,
  mxfp4 = 39,
  nvfp4 = 40
};

/// What is known of an element type.
struct GgmlTypeInfo {
  const char* name;      ///< "Q4_0"
  uint64_t block;        ///< elements that are stored together, along the rows
  uint64_t block_bytes;  ///< that they take
};
/// Of all types that the format has had; nullptr: no such number. @param type  as it stands in the file
const GgmlTypeInfo* find_ggml_type(uint32_t type);
inline const GgmlTypeInfo& ggml_type(GgmlType type) { return *find_ggml_type(static_cast<uint32_t>(type)); }

}  // namespace visq
