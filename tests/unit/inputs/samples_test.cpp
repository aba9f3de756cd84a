#include "visq/inputs/samples.h"

#include "support.h"

namespace visq {
namespace {

using namespace test;
namespace fs = std::filesystem;

/// The error of reading one line beside an image "cat.png".
std::string error_of_line(const std::string& line) {
  const TempDir dir;
  dir.write("cat.png", "pixels");
  const fs::path file = dir.write("data.jsonl", line + "\n");
  return error_of([&] { read_samples(file); });
}

std::string line_with_image(const std::string& path) {
  return R"({"messages":[{"role":"user","content":[{"type":"image","image":")" + path + R"("}]}]})";
}

TEST(Samples, TextAndImagePartsKeepTheirOrder) {
  const TempDir dir;
  dir.write("pictures/cat.png", "pixels");
  const fs::path file = dir.write(
      "data.jsonl",
      R"({"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[)"
      R"({"type":"image","image":"pictures/cat.png"},{"type":"text","text":"What is it?"}]}],"category":"animals"})"
      "\n");
  const auto samples = read_samples(file);
  ASSERT_EQ(samples.size(), 1u);
  const Sample& sample = samples[0];
  EXPECT_EQ(sample.origin, "data.jsonl:1");
  EXPECT_EQ(sample.category, "animals");
  EXPECT_EQ(sample.image_count(), 1);
  EXPECT_FALSE(sample.answer.has_value());
  ASSERT_EQ(sample.messages.size(), 2u);
  EXPECT_EQ(sample.messages[0].role, "system");
  EXPECT_EQ(sample.messages[0].content[0].text, "Be brief.");
  EXPECT_EQ(sample.messages[1].content[0].kind, ContentPart::Kind::image);
  EXPECT_EQ(sample.messages[1].content[0].image, fs::canonical(dir.path() / "pictures/cat.png"));
  EXPECT_EQ(sample.messages[1].content[1].text, "What is it?");
}

TEST(Samples, AClosingAssistantTurnBecomesTheAnswer) {
  const TempDir dir;
  const fs::path file =
      dir.write("data.jsonl", R"({"messages":[{"role":"user","content":"2+2?"},)"
                              R"({"role":"assistant","content":[{"type":"text","text":"It is "},)"
                              R"({"type":"text","text":"4."}]}]})");
  const auto samples = read_samples(file);
  ASSERT_EQ(samples.size(), 1u);
  EXPECT_EQ(samples[0].messages.size(), 1u);
  EXPECT_EQ(samples[0].answer, "It is 4.");
}

TEST(Samples, AnAssistantTurnInTheMiddleStaysAMessage) {
  const TempDir dir;
  const fs::path file = dir.write(
      "data.jsonl", R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},)"
                    R"({"role":"user","content":"c"}]})");
  const auto samples = read_samples(file);
  EXPECT_EQ(samples[0].messages.size(), 3u);
  EXPECT_FALSE(samples[0].answer.has_value());
}

TEST(Samples, TheLimitStopsReadingBeforeALaterFlaw) {
  const TempDir dir;
  const std::string good = R"({"messages":[{"role":"user","content":"a"}]})";
  const fs::path file = dir.write("data.jsonl", good + "\r\n\n" + good + "\nnot json\n");
  const auto samples = read_samples(file, 2);
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[1].origin, "data.jsonl:3");
  EXPECT_TRUE(mentions(error_of([&] { read_samples(file); }), {"data.jsonl:4", "not valid JSON"}));
}

TEST(Samples, LinesWithoutUsableMessagesAreErrors) {
  EXPECT_TRUE(mentions(error_of_line("[1]"), {"data.jsonl:1", "not a JSON object"}));
  EXPECT_TRUE(mentions(error_of_line("{}"), {"data.jsonl:1", "'messages'"}));
  EXPECT_TRUE(mentions(error_of_line(R"({"messages":[]})"), {"data.jsonl:1", "'messages'"}));
  EXPECT_TRUE(mentions(error_of_line(R"({"messages":["a"]})"), {"data.jsonl:1", "not an object"}));
  EXPECT_TRUE(mentions(error_of_line(R"({"messages":[{"role":"user"}]})"), {"data.jsonl:1", "'content'"}));
  EXPECT_TRUE(mentions(error_of_line(R"({"messages":[{"role":"user","content":7}]})"),
                       {"data.jsonl:1", "'content'"}));
  EXPECT_TRUE(mentions(error_of_line(R"({"messages":[{"role":"assistant","content":"a"}]})"),
                       {"data.jsonl:1", "nothing but an assistant turn"}));
}

TEST(Samples, UnknownRolesAndPartsAreNamed) {
  EXPECT_TRUE(
      mentions(error_of_line(R"({"messages":[{"role":"tool","content":"a"}]})"), {"data.jsonl:1", "'tool'"}));
  EXPECT_TRUE(mentions(error_of_line(R"({"messages":[{"role":"user","content":[{"type":"audio"}]}]})"),
                       {"data.jsonl:1", "'audio'"}));
  EXPECT_TRUE(mentions(error_of_line(R"({"messages":[{"role":"user","content":[{"text":"a"}]}]})"),
                       {"data.jsonl:1", "'type'"}));
}

TEST(Samples, ImagePathsMayNotLeaveTheFolder) {
  EXPECT_TRUE(mentions(error_of_line(line_with_image("/etc/passwd")), {"data.jsonl:1", "absolute"}));
  EXPECT_TRUE(mentions(error_of_line(line_with_image("../cat.png")), {"data.jsonl:1", "leaves the folder"}));
  EXPECT_TRUE(
      mentions(error_of_line(line_with_image("a/../../cat.png")), {"data.jsonl:1", "leaves the folder"}));
  EXPECT_TRUE(mentions(error_of_line(line_with_image("https://host/cat.png")), {"data.jsonl:1", "URL"}));
  EXPECT_TRUE(
      mentions(error_of_line(line_with_image("dog.png")), {"data.jsonl:1", "'dog.png' does not exist"}));
  EXPECT_TRUE(mentions(error_of_line(line_with_image("")), {"data.jsonl:1", "empty"}));
  EXPECT_TRUE(mentions(error_of_line(line_with_image(".")), {"data.jsonl:1", "does not exist"}));
}

std::string line_with_video(const std::string& fields) {
  return R"({"messages":[{"role":"user","content":[{"type":"video")" + fields + R"(}]}]})";
}

TEST(Samples, AVideoIsItsFramesInOrder) {
  const TempDir dir;
  for (const char* name : {"v/0.png", "v/1.png"}) dir.write(name, "pixels");
  const fs::path file =
      dir.write("data.jsonl", line_with_video(R"(,"frames":["v/1.png","v/0.png","v/1.png"],"fps":2.5)") +
                                  "\n" + line_with_video(R"(,"frames":["v/0.png"])"));
  const auto samples = read_samples(file);
  ASSERT_EQ(samples.size(), 2u);
  const ContentPart& part = samples[0].messages[0].content[0];
  const fs::path folder = fs::canonical(dir.path()) / "v";
  EXPECT_EQ(part.kind, ContentPart::Kind::video);
  EXPECT_EQ(part.video.frames, (std::vector<fs::path>{folder / "1.png", folder / "0.png", folder / "1.png"}));
  EXPECT_EQ(part.video.fps, 2.5);
  EXPECT_EQ(samples[1].messages[0].content[0].video.fps, 24);
  EXPECT_EQ(samples[0].image_count(), 1);
}

TEST(Samples, VideosWithoutUsableFramesAreErrors) {
  const auto error = [](const std::string& fields) { return error_of_line(line_with_video(fields)); };
  EXPECT_TRUE(mentions(error(R"(,"frames":["cat.png","dog.png"])"),
                       {"data.jsonl:1", "frame 'dog.png' does not exist"}));
  EXPECT_TRUE(mentions(error(R"(,"frames":[])"), {"data.jsonl:1", "no frames"}));
  EXPECT_TRUE(mentions(error(R"(,"frames":["../cat.png"])"), {"data.jsonl:1", "leaves the folder"}));
  EXPECT_TRUE(mentions(error(R"(,"frames":["/etc/passwd"])"), {"data.jsonl:1", "absolute"}));
  EXPECT_TRUE(mentions(error(R"(,"frames":"cat.png")"), {"data.jsonl:1", "'frames'"}));
  EXPECT_TRUE(mentions(error(R"(,"video":"cat.mp4")"), {"data.jsonl:1", "not decoded", "ffmpeg"}));
  EXPECT_TRUE(mentions(error(R"(,"frames":["cat.png"],"fps":0)"), {"data.jsonl:1", "'fps'"}));
  EXPECT_TRUE(mentions(error(R"(,"frames":["cat.png"],"fps":1e30)"), {"data.jsonl:1", "'fps'"}));
  std::string many = R"(,"frames":["cat.png")";
  for (size_t i = 0; i < kMaxFrames; ++i) many += R"(,"cat.png")";
  EXPECT_TRUE(mentions(error(many + "]"), {"data.jsonl:1", "769 frames", "768"}));
}

TEST(Samples, ASymbolicLinkMayNotLeadOutOfTheFolder) {
  const TempDir outside, dir;
  const fs::path secret = outside.write("secret.png", "pixels");
  fs::create_symlink(secret, dir.path() / "link.png");
  const fs::path file = dir.write("data.jsonl", line_with_image("link.png"));
  EXPECT_TRUE(mentions(error_of([&] { read_samples(file); }), {"data.jsonl:1", "symbolic link"}));
}

TEST(Samples, AFolderWithACommonNamePrefixIsOutside) {
  const TempDir dir;
  dir.write("data-private/cat.png", "pixels");
  fs::create_directory(dir.path() / "data");
  fs::create_symlink(dir.path() / "data-private", dir.path() / "data" / "link");
  const fs::path file = dir.write("data/data.jsonl", line_with_image("link/cat.png"));
  EXPECT_TRUE(mentions(error_of([&] { read_samples(file); }), {"data.jsonl:1", "symbolic link"}));
}

TEST(Samples, ALineBeyondTheLimitIsRefused) {
  const std::string message = error_of_line(std::string((16u << 20) + 1, ' '));
  EXPECT_EQ(message, "data.jsonl:1: the line is longer than 16 MiB");
}

TEST(Samples, DeepNestingIsRefused) {
  EXPECT_TRUE(mentions(error_of_line(std::string(100, '[')), {"data.jsonl:1", "nests deeper"}));
}

TEST(Samples, AMissingFileIsNamed) {
  EXPECT_TRUE(mentions(error_of([] { read_samples("/nowhere/data.jsonl"); }), {"/nowhere/data.jsonl"}));
}

}  // namespace
}  // namespace visq
