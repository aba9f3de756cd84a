#include "visq/families/family.h"

#include <algorithm>

#include "visq/core/format.h"

namespace visq {

// One file each.
Family llava_family();
Family llava_next_family();
Family llava_onevision_family();
Family qwen2_vl_family();
Family qwen2_5_vl_family();
Family qwen3_vl_family();
Family qwen3_vl_moe_family();
Family internvl_family();
Family mistral3_family();
Family lighton_ocr_family();
Family gemma3_family();
Family paligemma_family();
Family idefics3_family();
Family phi3_v_family();
Family phi4_multimodal_family();
Family phi4mm_family();
Family vila_family();
Family llava_original_family();
Family mllama_family();
Family llama4_family();
Family nemotron_vl_family();

const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      llava_family(),        llava_next_family(),     llava_onevision_family(),
      qwen2_vl_family(),     qwen2_5_vl_family(),     qwen3_vl_family(),
      qwen3_vl_moe_family(), internvl_family(),       mistral3_family(),
      lighton_ocr_family(),  gemma3_family(),         paligemma_family(),
      idefics3_family(),     phi3_v_family(),         phi4_multimodal_family(),
      phi4mm_family(),       mllama_family(),         llama4_family(),
      vila_family(),         llava_original_family(), nemotron_vl_family()};
  return all;
}

const char* reference_text(Reference reference) {
  return reference == Reference::transformers ? "every stage against transformers"
                                              : "every stage against PyTorch; parts against transformers";
}

namespace {

std::string architecture_of(const Json& config, const std::string& origin) {
  const auto names = get_or<std::vector<std::string>>(config, "architectures", {}, origin);
  return names.empty() ? "" : names.front();
}

}  // namespace

std::string unsupported_reason(const std::string& architecture) {
  for (const char* const name : {"NemotronH_Nano_VL_V2", "NemotronH_Omni_Reasoning_V3",
                                 "NemotronH_Nano_Omni_Reasoning_V3", "NemotronHOmniForConditionalGeneration"})
    if (architecture == name)
      return "its text model mixes Mamba2 and attention layers, which visq does not run; of Nemotron-VL it "
             "knows Llama_Nemotron_Nano_VL";
  return "";
}

const Family* find_family(const Json& config, const std::string& origin) {
  const std::string architecture = architecture_of(config, origin);
  for (const Family& family : families())
    if (std::ranges::find(family.architectures, architecture) != family.architectures.end()) return &family;
  return nullptr;
}

std::string supported_architectures() {
  std::string supported;
  for (const Family& family : families())
    for (const std::string& name : family.architectures)
      supported += visq::format("{}{} ({})", supported.empty() ? "" : ", ", name, family.checkpoints);
  return supported;
}

ModelSpec describe_model(const Json& config, const std::string& origin) {
  const std::string architecture = architecture_of(config, origin);
  if (const Family* family = find_family(config, origin)) {
    ModelSpec spec = family->describe(config, origin);
    spec.architecture = architecture;
    return spec;
  }
  if (architecture.empty())
    fail("{}: 'architectures' is missing; supported are {}", origin, supported_architectures());
  if (const std::string reason = unsupported_reason(architecture); !reason.empty())
    fail("{}: architecture '{}' is not supported: {}", origin, architecture, reason);
  fail("{}: architecture '{}' is not supported; supported are {}", origin, architecture,
       supported_architectures());
}

}  // namespace visq
