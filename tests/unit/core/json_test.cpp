#include "visq/core/json.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "tests/unit/error_of.h"

namespace visq {
namespace {

class JsonFile : public ::testing::Test {
 protected:
  explicit JsonFile() {
    std::string name = (std::filesystem::temp_directory_path() / "visq-test-XXXXXX").string();
    close(mkstemp(name.data()));
    path_ = name;
  }
  ~JsonFile() override { std::filesystem::remove(path_); }
  void save(std::string_view text) { std::ofstream(path_, std::ios::binary) << text; }

  std::filesystem::path path_;
};

TEST(ParseJson, KeepsTheOrderOfKeys) {
  EXPECT_EQ(parse_json(R"({"b": 1, "a": 2})", "config.json").dump(), R"({"b":1,"a":2})");
}

TEST(ParseJson, NamesTheOriginOfBrokenText) {
  for (const char* text : {"", "{", "{\"a\":}", "[1,]", "{} x", "\"\xff\"", "nul"})
    EXPECT_TRUE(
        error_of([&] { parse_json(text, "config.json"); }).starts_with("config.json: not valid JSON ("))
        << text;
}

TEST(ParseJson, LimitsTheDepth) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json(nested(kMaxJsonDepth), "x"));
  EXPECT_EQ(error_of([&] { parse_json(nested(kMaxJsonDepth + 2), "x"); }),
            "x: JSON nests deeper than 64 levels");
  EXPECT_EQ(error_of([&] { parse_json(std::string(10'000'000, '['), "x"); }),
            "x: JSON nests deeper than 64 levels");
}

TEST_F(JsonFile, ReadsAsManyBytesAsAllowed) {
  save("12345");
  EXPECT_EQ(read_text(path_, 5), "12345");
  EXPECT_EQ(read_json(path_), Json(12345));
  EXPECT_EQ(error_of([&] { read_text(path_, 4); }), path_.string() + ": 5 bytes, more than the 4 allowed");
}

TEST_F(JsonFile, NamesAMissingFile) {
  EXPECT_EQ(error_of([] { read_json("/nonexistent/config.json"); }),
            "/nonexistent/config.json: no such file");
  EXPECT_EQ(error_of([] { read_text("/tmp", 10); }), "/tmp: no such file");
}

TEST_F(JsonFile, NamesTheFileOfBrokenText) {
  save("{");
  EXPECT_TRUE(error_of([&] { read_json(path_); }).starts_with(path_.string() + ": not valid JSON"));
}

TEST(GetOr, FallsBackWhenTheKeyIsAbsentOrNull) {
  const Json object = Json::parse(R"({"n": 3, "none": null})");
  EXPECT_EQ(get_or(object, "n", 7, "c"), 3);
  EXPECT_EQ(get_or(object, "none", 7, "c"), 7);
  EXPECT_EQ(get_or(object, "m", 7, "c"), 7);
  EXPECT_EQ(get_or<std::string>(Json::parse("[]"), "m", "x", "c"), "x");
}

TEST(GetOr, NamesAKeyOfAnotherType) {
  const Json object = Json::parse(R"({"n": "three", "list": [1]})");
  EXPECT_EQ(error_of([&] { get_or(object, "n", 7, "config.json"); }),
            "config.json: 'n' has an unexpected type: \"three\"");
  EXPECT_EQ(error_of([&] { get_or<std::string>(object, "list", "", "config.json"); }),
            "config.json: 'list' has an unexpected type: [1]");
}

TEST(GetOr, CutsALongValueShort) {
  const Json object{{"n", std::string(1000, 'x')}};
  EXPECT_LT(error_of([&] { get_or(object, "n", 7, "c"); }).size(), 120u);
}

TEST(GetOr, TakesNoFractionOrOversizedNumberForAnInteger) {
  const Json object =
      Json::parse(R"({"whole": 3.0, "half": 3.5, "big": 5000000000, "huge": 1e300, "yes": true})");
  EXPECT_EQ(get_or<int64_t>(object, "whole", 7, "c"), 3);
  EXPECT_EQ(get_or<int64_t>(object, "big", 7, "c"), 5'000'000'000);
  EXPECT_EQ(error_of([&] { get_or<int64_t>(object, "half", 7, "c"); }),
            "c: 'half' has an unexpected type: 3.5");
  for (const char* key : {"big", "huge", "yes"}) EXPECT_THROW(get_or<int>(object, key, 7, "c"), Error) << key;
}

TEST(Require, NamesAKeyThatIsAbsentNullOrOfAnotherType) {
  const Json object = Json::parse(R"({"n": 3, "none": null, "s": "x"})");
  EXPECT_EQ(require<int>(object, "n", "c"), 3);
  EXPECT_EQ(error_of([&] { require<int>(object, "m", "config.json"); }), "config.json: 'm' is missing");
  EXPECT_EQ(error_of([&] { require<int>(object, "none", "config.json"); }), "config.json: 'none' is missing");
  EXPECT_EQ(error_of([&] { require<int>(Json(3), "n", "config.json"); }), "config.json: 'n' is missing");
  EXPECT_EQ(error_of([&] { require<int>(object, "s", "config.json"); }),
            "config.json: 's' has an unexpected type: \"x\"");
}

}  // namespace
}  // namespace visq
