#include "visq/export/gguf_writer.h"

#include <ATen/ATen.h>

#include <bit>
#include <set>

#include "visq/core/error.h"

namespace visq {
namespace {

class HeaderText {
 public:
  void integer(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) text_ += static_cast<char>(value >> (8 * i) & 0xFF);
  }
  void string(const std::string& text) {
    integer(text.size(), 8);
    text_ += text;
  }
  void value(const GgufValue& value) {
    const auto type = static_cast<uint64_t>(value.type);
    if (value.is_list()) integer(static_cast<uint64_t>(GgufValueType::array), 4);
    integer(type, 4);
    std::visit(
        [&](const auto& data) {
          using Data = std::decay_t<decltype(data)>;
          if constexpr (std::is_same_v<Data, std::string> || std::is_arithmetic_v<Data>) {
            entry(value.type, data);
          } else {
            integer(data.size(), 8);
            for (const auto& each : data) entry(value.type, each);
          }
        },
        value.data);
  }
  void fill_up() { text_.resize((text_.size() + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment); }
  const std::string& text() const { return text_; }

 private:
  void entry(GgufValueType, const std::string& text) { string(text); }
  void entry(GgufValueType, bool value) { integer(value ? 1 : 0, 1); }
  void entry(GgufValueType type, double value) {
    if (type == GgufValueType::float64) return integer(std::bit_cast<uint64_t>(value), 8);
    integer(std::bit_cast<uint32_t>(static_cast<float>(value)), 4);
  }
  void entry(GgufValueType type, int64_t value) { entry(type, static_cast<uint64_t>(value)); }
  void entry(GgufValueType type, uint64_t value) {
    const bool wide = type == GgufValueType::uint64 || type == GgufValueType::int64;
    integer(value, wide ? 8 : 4);  // no narrower ones are written
  }

  std::string text_;
};

}  // namespace

uint64_t GgufPlannedTensor::bytes() const {
  const GgmlTypeInfo& info = ggml_type(type);
  if (shape.empty() || shape.size() > kMaxGgufDimensions || name.empty() || name.size() >= kMaxGgufName)
    fail("tensor '{}' [{}]: no tensor of GGUF is like this", name, fmt::join(shape, ", "));
  if (static_cast<uint64_t>(shape.back()) % info.block != 0)
    fail("tensor '{}' has rows of {}, no multiple of the {} that {} stores together", name, shape.back(),
         info.block, info.name);
  uint64_t count = 1;
  for (const int64_t extent : shape) count *= static_cast<uint64_t>(extent);
  return count / info.block * info.block_bytes;
}

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                       std::vector<GgufPlannedTensor> tensors)
    : file_(path), tensors_(std::move(tensors)), written_(tensors_.size()) {
  HeaderText header;
  header.integer(kGgufMagic, 4);
  header.integer(kGgufVersion, 4);
  header.integer(tensors_.size(), 8);
  header.integer(metadata.size(), 8);
  std::set<std::string> keys;
  for (const auto& [key, value] : metadata) {
    if (!keys.insert(key).second) fail("{}: key '{}' is given twice", path.string(), key);
    header.string(key);
    header.value(value);
  }
  uint64_t offset = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const GgufPlannedTensor& tensor = tensors_[i];
    if (!index_.emplace(tensor.name, i).second)
      fail("{}: tensor '{}' is planned twice", path.string(), tensor.name);
    header.string(tensor.name);
    header.integer(tensor.shape.size(), 4);
    for (size_t d = tensor.shape.size(); d-- > 0;) header.integer(static_cast<uint64_t>(tensor.shape[d]), 8);
    header.integer(static_cast<uint64_t>(tensor.type), 4);
    header.integer(offset, 8);
    begins_.push_back(offset);
    offset += (tensor.bytes() + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
  }
  header.fill_up();
  for (uint64_t& begin : begins_) begin += header.text().size();
  file_.reserve(header.text().size() + offset);
  file_.write_at(0, header.text());
}

void GgufWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const auto found = index_.find(name);
  if (found == index_.end()) fail("{}: tensor '{}' was not planned", file_.path().string(), name);
  const size_t i = found->second;
  if (bytes.size() != tensors_[i].bytes())
    fail("{}: tensor '{}' has {} bytes, not the {} planned", file_.path().string(), name, bytes.size(),
         tensors_[i].bytes());
  if (written_[i].exchange(true)) fail("{}: tensor '{}' is written twice", file_.path().string(), name);
  file_.write_at(begins_[i], bytes);
}

void GgufWriter::write(const std::string& name, const at::Tensor& bytes) {
  write(name, {static_cast<const std::byte*>(bytes.const_data_ptr()), bytes.nbytes()});
}

void GgufWriter::close() {
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (!written_[i])
      fail("{}: tensor '{}' was planned but never written", file_.path().string(), tensors_[i].name);
  file_.close();
}

}  // namespace visq
