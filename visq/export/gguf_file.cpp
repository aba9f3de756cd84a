#include "visq/export/gguf_file.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>

#include "visq/core/error.h"

namespace visq {
namespace {

constexpr size_t kMaxKeyBytes = 65535;  // the format's own limit
constexpr uint64_t kMaxAlignment = 1 << 20;
// What the shortest entries take: a key of one letter and a value; a name of one letter, a dimension, type
// and offset.
constexpr uint64_t kLeastEntry = 8 + 1 + 4 + 1, kLeastTensor = 8 + 1 + 4 + 8 + 4 + 8;

/// Bytes that a value of a type takes at least.
uint64_t least_bytes(GgufValueType type, const std::string& what, const std::string& origin) {
  switch (type) {
    case GgufValueType::uint8:
    case GgufValueType::int8:
    case GgufValueType::boolean:
      return 1;
    case GgufValueType::uint16:
    case GgufValueType::int16:
      return 2;
    case GgufValueType::uint32:
    case GgufValueType::int32:
    case GgufValueType::float32:
      return 4;
    case GgufValueType::uint64:
    case GgufValueType::int64:
    case GgufValueType::float64:
    case GgufValueType::string:  // its length
      return 8;
    case GgufValueType::array:
      break;
  }
  fail("{}: {} has values of type {}, which visq does not read", origin, what, static_cast<uint32_t>(type));
}

class Header {
 public:
  Header(std::span<const std::byte> file, std::string origin) : file_(file), origin_(std::move(origin)) {}

  uint64_t at() const { return at_; }
  uint64_t left() const { return file_.size() - at_; }

  std::span<const std::byte> take(uint64_t bytes, const std::string& what) {
    if (bytes > left())
      fail(
          "{}: {} ends behind the end of the file, which has {} bytes: the download is incomplete, or the "
          "file "
          "damaged",
          origin_, what, file_.size());
    const auto taken = file_.subspan(at_, bytes);
    at_ += bytes;
    return taken;
  }
  uint64_t integer(uint64_t bytes, const std::string& what) { return little_endian(take(bytes, what)); }

  std::string string(uint64_t limit, const std::string& what) {
    const uint64_t length = integer(8, what);
    if (length > limit) fail("{}: {} has {} bytes, more than the {} allowed", origin_, what, length, limit);
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::string name(uint64_t limit, const std::string& what) {
    std::string text = string(limit, what);
    const auto control = [](unsigned char c) { return c < 0x20 || c == 0x7F; };
    if (text.empty() || std::ranges::any_of(text, control))
      fail("{}: {} is empty or holds control characters", origin_, what);
    return text;
  }
  /// @param least  bytes that one takes
  uint64_t count(uint64_t least, const std::string& what) {
    const uint64_t number = integer(8, what);
    if (number > left() / least)
      fail("{}: {} says {}, more than the {} bytes that are left can hold", origin_, what, number, left());
    return number;
  }

  GgufValue value(const std::string& what) {
    const auto type = static_cast<GgufValueType>(integer(4, what));
    if (type == GgufValueType::array) return list(what);
    GgufValue value{type, {}};
    read(type, what, [&](auto read_value) { value.data = std::move(read_value); });
    return value;
  }

 private:
  GgufValue list(const std::string& what) {
    const auto type = static_cast<GgufValueType>(integer(4, what));
    if (type == GgufValueType::array)
      fail("{}: {} is a list of lists, which no key is known to have", origin_, what);
    const uint64_t entries = count(least_bytes(type, what, origin_), "the length of " + what);
    GgufValue value{type, {}};
    if (type == GgufValueType::string)
      value.data = entries_of<std::string>(type, entries, what);
    else if (type == GgufValueType::boolean)
      value.data = entries_of<bool>(type, entries, what);
    else if (type == GgufValueType::float32 || type == GgufValueType::float64)
      value.data = entries_of<double>(type, entries, what);
    else if (type == GgufValueType::int8 || type == GgufValueType::int16 || type == GgufValueType::int32 ||
             type == GgufValueType::int64)
      value.data = entries_of<int64_t>(type, entries, what);
    else
      value.data = entries_of<uint64_t>(type, entries, what);
    return value;
  }

  template <typename T>
  std::vector<T> entries_of(GgufValueType type, uint64_t entries, const std::string& what) {
    std::vector<T> values;
    values.reserve(entries);
    for (uint64_t i = 0; i < entries; ++i)
      read(type, what, [&](auto read_value) {
        if constexpr (std::is_same_v<decltype(read_value), T>) values.push_back(std::move(read_value));
      });
    return values;
  }

  /// Reads one value and hands it over as uint64_t, int64_t, double, bool or std::string.
  template <typename Take>
  void read(GgufValueType type, const std::string& what, Take&& give) {
    const uint64_t bytes = least_bytes(type, what, origin_);
    switch (type) {
      case GgufValueType::string:
        return give(string(left(), what));
      case GgufValueType::boolean: {
        const uint64_t byte = integer(1, what);
        if (byte > 1) fail("{}: {} is {}, neither true nor false", origin_, what, byte);
        return give(byte == 1);
      }
      case GgufValueType::float32:
        return give(static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(integer(4, what)))));
      case GgufValueType::float64:
        return give(std::bit_cast<double>(integer(8, what)));
      case GgufValueType::int8:
      case GgufValueType::int16:
      case GgufValueType::int32:
      case GgufValueType::int64: {
        const auto unused = static_cast<int>(64 - 8 * bytes);
        return give(static_cast<int64_t>(integer(bytes, what) << unused) >> unused);
      }
      default:
        return give(integer(bytes, what));
    }
  }

  std::span<const std::byte> file_;
  std::string origin_;
  uint64_t at_ = 0;
};

void check_start(Header& header, const std::string& origin) {
  if (header.integer(4, "its beginning") != kGgufMagic) fail("{}: not a GGUF file", origin);
  const uint64_t version = header.integer(4, "the version");
  if ((version & 0xFFFF) == 0)
    fail("{}: a GGUF file for big-endian machines, which visq does not read", origin);
  if (version != 2 && version != kGgufVersion)
    fail("{}: version {} of GGUF; visq reads 2 and 3", origin, version);
}

uint64_t round_up(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

/// Bytes of a tensor whose extents stand in the order of the file.
uint64_t tensor_bytes(const std::vector<int64_t>& extents, const GgmlTypeInfo& type, const std::string& what,
                      const std::string& origin) {
  if (static_cast<uint64_t>(extents.front()) % type.block != 0)
    fail("{}: {} has rows of {}, no multiple of the {} that {} stores together", origin, what,
         extents.front(), type.block, type.name);
  uint64_t count = 1;
  constexpr uint64_t limit = uint64_t{1} << 56;  // so that bytes fit whatever the type
  for (const int64_t extent : extents) {
    if (extent < 1 || static_cast<uint64_t>(extent) > limit / count)
      fail("{}: {} has the extents {}, which no tensor has", origin, what, fmt::join(extents, " × "));
    count *= static_cast<uint64_t>(extent);
  }
  return count / type.block * type.block_bytes;
}

/// Its place is still relative.
GgufTensor read_tensor(Header& header, const std::string& origin) {
  GgufTensor tensor;
  tensor.name = header.name(kMaxGgufName, "the name of a tensor");
  const std::string what = visq::format("tensor '{}'", tensor.name);
  const uint64_t dimensions = header.integer(4, what);
  if (dimensions < 1 || dimensions > kMaxGgufDimensions)
    fail("{}: {} has {} dimensions; 1 to {} are possible", origin, what, dimensions, kMaxGgufDimensions);
  for (uint64_t i = 0; i < dimensions; ++i)
    tensor.shape.push_back(static_cast<int64_t>(header.integer(8, what)));
  tensor.type = static_cast<uint32_t>(header.integer(4, what));
  const GgmlTypeInfo* const type = find_ggml_type(tensor.type);
  if (type == nullptr) fail("{}: {} is of type {}, which is not known", origin, what, tensor.type);
  const uint64_t bytes = tensor_bytes(tensor.shape, *type, what, origin);
  std::ranges::reverse(tensor.shape);
  tensor.begin = header.integer(8, what);
  if (tensor.begin > UINT64_MAX / 2) fail("{}: {} begins at {}", origin, what, tensor.begin);
  tensor.end = tensor.begin + bytes;
  return tensor;
}

uint64_t alignment_of(const GgufValue* value, const std::string& origin) {
  if (value == nullptr) return kGgufAlignment;
  const auto* const number = std::get_if<uint64_t>(&value->data);
  if (number == nullptr || !std::has_single_bit(*number) || *number > kMaxAlignment)
    fail("{}: '{}' is no power of two", origin, kGgufAlignmentKey);
  return *number;
}

}  // namespace

GgufFile::GgufFile(const std::filesystem::path& path) : file_(std::make_shared<MappedFile>(path)) {
  const std::string origin = path.string();
  Header header(file_->bytes(), origin);
  check_start(header, origin);
  const uint64_t tensors = header.count(kLeastTensor, "the number of tensors");
  const uint64_t keys = header.count(kLeastEntry, "the number of keys");
  for (uint64_t i = 0; i < keys; ++i) {
    std::string key = header.name(kMaxKeyBytes, "a key");
    GgufValue value = header.value(visq::format("'{}'", key));
    if (!key_index_.emplace(key, metadata_.size()).second) fail("{}: '{}' stands there twice", origin, key);
    metadata_.emplace_back(std::move(key), std::move(value));
  }
  if (find("split.count") != nullptr && number("split.count") > 1)
    fail("{}: one of {} parts of a model: put them together with `llama-gguf-split --merge`", origin,
         number("split.count"));
  const uint64_t alignment = alignment_of(find(kGgufAlignmentKey), origin);
  for (uint64_t i = 0; i < tensors; ++i) tensors_.push_back(read_tensor(header, origin));
  const uint64_t start = round_up(header.at(), alignment), size = file_->bytes().size();
  uint64_t next = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    GgufTensor& tensor = tensors_[i];
    if (!tensor_index_.emplace(tensor.name, i).second)
      fail("{}: tensor '{}' stands there twice", origin, tensor.name);
    if (tensor.begin != next)
      fail(
          "{}: tensor '{}' begins at {} of the data; it must begin at {}, behind the one before it and at a "
          "multiple of {}",
          origin, tensor.name, tensor.begin, next, alignment);
    next = round_up(tensor.end, alignment);
    if (start > size || tensor.end > size - start)
      fail("{}: tensor '{}' ends behind the end of the file, which has {} bytes: the download is incomplete",
           origin, tensor.name, size);
    tensor.begin += start;
    tensor.end += start;
  }
}

const GgufValue* GgufFile::find(const std::string& key) const {
  const auto found = key_index_.find(key);
  return found == key_index_.end() ? nullptr : &metadata_[found->second].second;
}

const GgufTensor* GgufFile::find_tensor(const std::string& name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& tensor) const {
  return file_->bytes().subspan(tensor.begin, tensor.bytes());
}

std::string GgufFile::text(const std::string& key) const {
  const GgufValue* const value = find(key);
  if (value == nullptr || !std::holds_alternative<std::string>(value->data))
    fail("{}: '{}' is missing, or no text", path().string(), key);
  return std::get<std::string>(value->data);
}

uint64_t GgufFile::number(const std::string& key) const {
  const GgufValue* const value = find(key);
  if (value != nullptr) {
    if (const auto* const number = std::get_if<uint64_t>(&value->data)) return *number;
    if (const auto* const number = std::get_if<int64_t>(&value->data); number != nullptr && *number >= 0)
      return static_cast<uint64_t>(*number);
  }
  fail("{}: '{}' is missing, or no whole number", path().string(), key);
}

bool is_gguf(const std::filesystem::path& path) {
  if (!std::filesystem::is_regular_file(path)) return false;
  std::ifstream stream(path, std::ios::binary);
  char magic[4] = {};
  return stream.read(magic, sizeof magic) && std::memcmp(magic, "GGUF", sizeof magic) == 0;
}

}  // namespace visq
