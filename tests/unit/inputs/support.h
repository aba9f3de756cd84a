// What the tests of this folder share: temporary files, messages of errors, checksums.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "visq/core/error.h"

namespace visq::test {

/// A folder that disappears with the test.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "visq-inputs-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view content) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

/// The message of the Error that `action` throws; the test fails when it throws none, or one of several
/// lines.
template <typename Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& e) {
    const std::string message = e.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  ADD_FAILURE() << "no Error was thrown";
  return {};
}

/// Whether the message holds both: errors name the file and the cause.
inline testing::AssertionResult mentions(const std::string& message,
                                         std::initializer_list<const char*> parts) {
  for (const char* part : parts)
    if (message.find(part) == std::string::npos)
      return testing::AssertionFailure() << "'" << message << "' does not mention '" << part << "'";
  return testing::AssertionSuccess();
}

/// CRC-32 as zlib and PNG compute it.
inline uint32_t crc32(const void* data, size_t size) {
  static const auto table = [] {
    std::array<uint32_t, 256> out{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
      out[byte] = byte;
      for (int bit = 0; bit < 8; ++bit) out[byte] = out[byte] >> 1 ^ (out[byte] & 1 ? 0xEDB88320u : 0u);
    }
    return out;
  }();
  uint32_t crc = ~0u;
  for (size_t i = 0; i < size; ++i)
    crc = crc >> 8 ^ table[(crc ^ static_cast<const uint8_t*>(data)[i]) & 255];
  return ~crc;
}

}  // namespace visq::test
