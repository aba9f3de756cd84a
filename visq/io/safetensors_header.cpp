#include "visq/io/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>
#include <utility>

#include "visq/core/format.h"
#include "visq/core/json.h"

namespace visq {
namespace {

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 16> kDtypes{{
    {"BOOL", at::kBool},
    {"U8", at::kByte},
    {"I8", at::kChar},
    {"I16", at::kShort},
    {"U16", at::kUInt16},
    {"I32", at::kInt},
    {"U32", at::kUInt32},
    {"I64", at::kLong},
    {"U64", at::kUInt64},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"F32", at::kFloat},
    {"F64", at::kDouble},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2},
    {"F8_E8M0", at::kFloat8_e8m0fnu},
}};

// Far above what checkpoints hold; they keep a hostile header from costing memory.
constexpr size_t kMaxTensors = 1'000'000;
constexpr size_t kMaxDimensions = 64;  // what at::TensorIterator can walk

constexpr std::string_view kMetadataKey = "__metadata__";

std::optional<at::ScalarType> parse_dtype(std::string_view name) {
  const auto* it =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& d) { return d.first == name; });
  return it == kDtypes.end() ? std::nullopt : std::optional(it->second);
}

// C0, DEL and, in UTF-8, C1: on a terminal these can do more than show.
bool has_control_character(std::string_view name) {
  for (size_t i = 0; i < name.size(); ++i) {
    const auto byte = static_cast<unsigned char>(name[i]);
    if (byte < 0x20 || byte == 0x7f) return true;
    if (byte == 0xc2 && i + 1 < name.size() && static_cast<unsigned char>(name[i + 1]) < 0xa0) return true;
  }
  return false;
}

void check_name(std::string_view name, const std::string& origin) {
  if (name.empty()) fail("{}: a tensor has an empty name", origin);
  if (has_control_character(name))
    fail("{}: the name of a tensor holds control characters: {}", origin, json_text(name));
}

// Takes the header apart as it is read. A parsed document would hide a name that stands there twice, and
// would cost many times the header's size in memory before the first check.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(std::string origin, uint64_t data_start)
      : origin_(std::move(origin)), data_start_(data_start) {}

  std::vector<TensorInfo> take() { return std::move(tensors_); }

  bool start_object(std::size_t) override {
    if (level_ == Level::kFile) return enter(Level::kTop);
    if (level_ != Level::kTop) unexpected();
    if (name_ == kMetadataKey) return enter(Level::kMetadata);
    if (tensors_.size() == kMaxTensors) fail("{}: more than {} tensors", origin_, kMaxTensors);
    tensors_.emplace_back().name = name_;
    has_dtype_ = has_shape_ = has_offsets_ = false;
    return enter(Level::kTensor);
  }

  bool key(string_t& text) override {
    if (level_ == Level::kTop) {
      name_ = text;
      check_name(name_, origin_);
    } else if (level_ == Level::kTensor) {
      key_ = text;
      claim_key();
    }
    return true;
  }

  bool string(string_t& text) override {
    if (level_ == Level::kMetadata) return true;
    if (level_ != Level::kTensor || key_ != "dtype") unexpected();
    const auto dtype = parse_dtype(text);
    if (!dtype) fail("{}: tensor '{}' has the unknown dtype {}", origin_, name_, json_excerpt(text));
    tensors_.back().dtype = *dtype;
    return true;
  }

  bool start_array(std::size_t) override {
    if (level_ != Level::kTensor || key_ == "dtype") unexpected();
    offsets_ = 0;
    return enter(key_ == "shape" ? Level::kShape : Level::kOffsets);
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (level_ == Level::kShape) {
      add_dimension(value);
    } else if (level_ == Level::kOffsets) {
      add_offset(value);
    } else {
      unexpected();
    }
    return true;
  }

  bool end_array() override {
    if (level_ == Level::kOffsets && offsets_ != 2) fail_offsets();
    return enter(Level::kTensor);
  }

  bool end_object() override {
    if (level_ == Level::kTensor) check_tensor();
    return enter(level_ == Level::kTop ? Level::kFile : Level::kTop);
  }

  bool null() override { unexpected(); }
  bool boolean(bool) override { unexpected(); }
  bool number_integer(number_integer_t) override { unexpected(); }
  bool number_float(number_float_t, const string_t&) override { unexpected(); }
  bool binary(binary_t&) override { unexpected(); }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) override {
    fail("{}: the header is not valid JSON ({})", origin_, e.what());
  }

 private:
  enum class Level { kFile, kTop, kMetadata, kTensor, kShape, kOffsets };

  bool enter(Level level) {
    level_ = level;
    return true;
  }

  void claim_key() {
    bool* const seen = key_ == "dtype"          ? &has_dtype_
                       : key_ == "shape"        ? &has_shape_
                       : key_ == "data_offsets" ? &has_offsets_
                                                : nullptr;
    if (!seen) fail("{}: tensor '{}' has the unknown key {}", origin_, name_, json_excerpt(key_));
    if (std::exchange(*seen, true)) fail("{}: tensor '{}' has '{}' twice", origin_, name_, key_);
  }

  void add_dimension(uint64_t size) {
    auto& shape = tensors_.back().shape;
    if (shape.size() == kMaxDimensions)
      fail("{}: tensor '{}' has more than {} dimensions", origin_, name_, kMaxDimensions);
    if (size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) fail_shape();
    shape.push_back(static_cast<int64_t>(size));
  }

  void add_offset(uint64_t offset) {
    // A file offset is signed; this also keeps all later sums from overflowing.
    if (offset > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) - data_start_ || offsets_ == 2)
      fail_offsets();
    (offsets_++ == 0 ? tensors_.back().begin : tensors_.back().end) = data_start_ + offset;
  }

  void check_tensor() {
    const TensorInfo& tensor = tensors_.back();
    for (const auto& [seen, what] : {std::pair{has_dtype_, "dtype"}, std::pair{has_shape_, "shape"},
                                     std::pair{has_offsets_, "data_offsets"}})
      if (!seen) fail("{}: tensor '{}' has no '{}'", origin_, name_, what);
    if (tensor.begin > tensor.end) fail_offsets();
    const auto bytes = tensor_bytes(tensor.shape, tensor.dtype);
    if (!bytes) fail_shape();
    if (*bytes != tensor.bytes())
      fail("{}: tensor '{}' of dtype {} and shape {} takes {} bytes, but its range holds {}", origin_, name_,
           safetensors_dtype(tensor.dtype), json_text(tensor.shape), *bytes, tensor.bytes());
  }

  [[noreturn]] void fail_shape() const { fail("{}: tensor '{}' has an impossible shape", origin_, name_); }
  [[noreturn]] void fail_offsets() const {
    fail("{}: tensor '{}': 'data_offsets' is not a pair [begin, end] with begin <= end", origin_, name_);
  }

  [[noreturn]] void unexpected() const {
    switch (level_) {
      case Level::kFile:
        fail("{}: the header is not a JSON object", origin_);
      case Level::kTop:
        if (name_ != kMetadataKey) fail("{}: the entry of tensor '{}' is not an object", origin_, name_);
        [[fallthrough]];
      case Level::kMetadata:
        fail("{}: '__metadata__' is not a map of strings", origin_);
      case Level::kShape:
        fail("{}: tensor '{}': 'shape' holds something else than whole numbers from 0 up", origin_, name_);
      case Level::kOffsets:
        fail_offsets();
      case Level::kTensor:
        break;
    }
    fail("{}: tensor '{}': '{}' has an unexpected type", origin_, name_, key_);
  }

  std::string origin_;
  uint64_t data_start_;
  Level level_ = Level::kFile;
  std::string name_, key_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  int offsets_ = 0;  // of data_offsets, read so far
  std::vector<TensorInfo> tensors_;
};

// An empty tensor may begin where its neighbour does: it comes first.
void sort_by_place(std::vector<TensorInfo>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
}

void check_places(const std::vector<TensorInfo>& tensors, uint64_t data_start, const std::string& origin) {
  uint64_t expected = data_start;
  std::string_view before;
  for (const auto& tensor : tensors) {
    if (tensor.begin < expected) fail("{}: tensors '{}' and '{}' overlap", origin, before, tensor.name);
    if (tensor.begin > expected)
      fail("{}: {} bytes before tensor '{}' belong to no tensor", origin, tensor.begin - expected,
           tensor.name);
    expected = tensor.end;
    before = tensor.name;
  }
}

}  // namespace

std::string_view safetensors_dtype(at::ScalarType dtype) {
  for (const auto& [name, type] : kDtypes)
    if (type == dtype) return name;
  fail("the safetensors format has no dtype for {}", c10::toString(dtype));
}

std::optional<uint64_t> tensor_bytes(std::span<const int64_t> shape, at::ScalarType dtype) {
  auto bytes = static_cast<int64_t>(c10::elementSize(dtype));
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) return std::nullopt;
    empty |= size == 0;
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(size, 1), &bytes)) return std::nullopt;
  }
  return empty ? 0 : static_cast<uint64_t>(bytes);
}

std::vector<TensorInfo> parse_header(std::string_view header, uint64_t data_start,
                                     const std::string& origin) {
  // The format asks for this, so that no other kind of file passes as an empty checkpoint.
  if (!header.starts_with('{')) fail("{}: the header is not a JSON object", origin);
  HeaderReader reader(origin, data_start);
  Json::sax_parse(header, &reader);
  auto tensors = reader.take();
  sort_by_place(tensors);
  check_places(tensors, data_start, origin);
  return tensors;
}

std::string lay_out(std::vector<TensorInfo>& tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return c10::elementSize(a.dtype) > c10::elementSize(b.dtype);
  });
  std::string json = R"({"__metadata__":{"format":"pt"})";
  uint64_t end = 0;  // counted from the end of the header, as in the file
  for (auto& tensor : tensors) {
    check_name(tensor.name, "output");
    const auto bytes = tensor_bytes(tensor.shape, tensor.dtype);
    if (!bytes || __builtin_add_overflow(end, *bytes, &end)) fail("tensor '{}' is too large", tensor.name);
    tensor.begin = end - *bytes;
    tensor.end = end;
    json += visq::format(R"(,{}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", json_text(tensor.name),
                         safetensors_dtype(tensor.dtype), json_text(tensor.shape), tensor.begin, tensor.end);
  }
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');
  if (json.size() > kMaxHeaderBytes) fail("too many tensors for one safetensors file: {}", tensors.size());

  std::string head;
  for (int byte = 0; byte < 8; ++byte) head += static_cast<char>(json.size() >> (8 * byte) & 0xff);
  head += json;
  for (auto& tensor : tensors) {
    tensor.begin += head.size();
    tensor.end += head.size();
  }
  return head;
}

}  // namespace visq
