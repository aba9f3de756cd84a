#include "visq/families/family.h"

#include <algorithm>

#include "visq/core/format.h"
#include "visq/families/internvl.h"
#include "visq/families/llava.h"
#include "visq/families/llava_next.h"
#include "visq/families/llava_onevision.h"
#include "visq/families/mistral3.h"
#include "visq/families/qwen2_5_vl.h"
#include "visq/families/qwen2_vl.h"

namespace visq {

const std::vector<Family>& families() {
  static const std::vector<Family> all = {llava_family(),    llava_next_family(), llava_onevision_family(),
                                          qwen2_vl_family(), qwen2_5_vl_family(), internvl_family(),
                                          mistral3_family()};
  return all;
}

ModelSpec describe_model(const Json& config, const std::string& origin) {
  const auto names = get_or<std::vector<std::string>>(config, "architectures", {}, origin);
  const std::string architecture = names.empty() ? "" : names.front();
  std::string supported;
  for (const Family& family : families()) {
    if (std::ranges::find(family.architectures, architecture) != family.architectures.end()) {
      ModelSpec spec = family.describe(config, origin);
      spec.architecture = architecture;
      return spec;
    }
    for (const std::string& name : family.architectures)
      supported += visq::format("{}{} ({})", supported.empty() ? "" : ", ", name, family.checkpoints);
  }
  if (architecture.empty()) fail("{}: 'architectures' is missing; supported are {}", origin, supported);
  fail("{}: architecture '{}' is not supported; supported are {}", origin, architecture, supported);
}

}  // namespace visq
