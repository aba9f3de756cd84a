#include "visq/inputs/post_processor.h"

#include "support.h"

namespace visq {
namespace {

using namespace test;
using Ids = std::vector<int64_t>;

PostProcessor parse(const std::string& json) {
  return PostProcessor::parse(Json::parse(json), "tokenizer.json");
}

const std::string kTemplate = R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "</s>", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                       "</s>": {"id": "</s>", "ids": [2, 3], "tokens": ["</", "s>"]}}})";

TEST(PostProcessor, ATemplatePutsIdsAroundTheText) {
  const auto post = parse(kTemplate);
  EXPECT_EQ(post.prefix, (Ids{1}));
  EXPECT_EQ(post.suffix, (Ids{2, 3}));
}

TEST(PostProcessor, InASequenceTheLaterTemplateIsOutside) {
  const auto post = parse(R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, )" + kTemplate + R"(,
      {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}],
       "special_tokens": {"x": {"ids": [9]}}}]})");
  EXPECT_EQ(post.prefix, (Ids{9, 1}));
  EXPECT_EQ(post.suffix, (Ids{2, 3}));
}

TEST(PostProcessor, ByteLevelAndNullAddNothing) {
  EXPECT_TRUE(parse("null").prefix.empty());
  EXPECT_TRUE(parse(R"({"type": "ByteLevel", "trim_offsets": false})").suffix.empty());
}

TEST(PostProcessor, MalformedTemplatesAreErrors) {
  EXPECT_EQ(error_of([] { parse(R"({"type": "BertProcessing"})"); }),
            "tokenizer.json: post_processor: 'BertProcessing' is not supported");
  EXPECT_TRUE(
      mentions(error_of([] {
                 parse(R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}]})");
               }),
               {"tokenizer.json", "'<s>'"}));
  EXPECT_TRUE(mentions(error_of([] { parse(R"({"type": "TemplateProcessing", "single": []})"); }),
                       {"tokenizer.json", "lacks the text"}));
  EXPECT_TRUE(
      mentions(error_of([] {
                 parse(R"({"type": "TemplateProcessing", "single": [{"Sequence": 1}, {"Sequence": 2}]})");
               }),
               {"tokenizer.json", "repeats"}));
}

}  // namespace
}  // namespace visq
