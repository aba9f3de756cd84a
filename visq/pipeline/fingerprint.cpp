#include "visq/pipeline/fingerprint.h"

#include <c10/util/hash.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "visq/core/format.h"

namespace visq {

std::string fingerprint(const Checkpoint& checkpoint) {
  constexpr size_t kSample = 256;
  std::string text = json_text(checkpoint.config());
  std::vector<std::string> names = checkpoint.names();
  std::ranges::sort(names);
  for (const std::string& name : names) {
    const TensorInfo& info = checkpoint.info(name);
    // Names hold no control characters, so a line break ends them.
    text += visq::format("\n{}\n{} [{}]\n", name, safetensors_dtype(info.dtype), fmt::join(info.shape, ","));
    const auto bytes = checkpoint.bytes(name);
    const size_t count = std::min(bytes.size(), kSample);
    text.append(reinterpret_cast<const char*>(bytes.data()) + (bytes.size() - count) / 2, count);
  }
  return c10::sha1(text).str();
}

}  // namespace visq
