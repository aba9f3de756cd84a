#include "visq/io/checkpoint.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "tests/unit/io/fixtures.h"
#include "visq/core/format.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

class CheckpointDirectory : public ::testing::Test {
 protected:
  CheckpointDirectory() { write_text(directory_ / "config.json", R"({"model_type": "llava"})"); }

  void shard(const std::string& name, const std::vector<std::string>& tensors) {
    std::vector<std::pair<std::string, at::Tensor>> content;
    for (const auto& tensor : tensors)
      content.emplace_back(tensor, at::full({2, 2}, static_cast<double>(tensor.size())));
    write_safetensors(directory_ / name, content);
  }
  void index(const std::string& weight_map) {
    write_text(directory_ / "model.safetensors.index.json",
               "{\"metadata\": {}, \"weight_map\": " + weight_map + "}");
  }
  std::string error() {
    return error_of([&] { Checkpoint checkpoint(directory_.path()); });
  }

  TemporaryDirectory directory_;
};

TEST_F(CheckpointDirectory, OpensASingleFile) {
  shard("model.safetensors", {"bb", "a"});
  const Checkpoint checkpoint(directory_.path());
  EXPECT_EQ(checkpoint.config().at("model_type"), "llava");
  EXPECT_EQ(checkpoint.text_model().config_text, R"({"model_type": "llava"})");
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"bb", "a"}));
  EXPECT_TRUE(checkpoint.contains("a"));
  EXPECT_FALSE(checkpoint.contains("c"));
  EXPECT_EQ(checkpoint.tensor("bb")[1][1].item<float>(), 2.0f);
  EXPECT_EQ(checkpoint.info("a").shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(checkpoint.bytes("a").size(), 16u);
  EXPECT_EQ(checkpoint.file_of("a"), directory_ / "model.safetensors");
  EXPECT_EQ(checkpoint.total_bytes(), 32u);
}

TEST_F(CheckpointDirectory, OpensTheShardsOfAnIndexInTheOrderOfTheirNames) {
  shard("model-00002-of-00002.safetensors", {"b"});
  shard("model-00001-of-00002.safetensors", {"c", "a"});
  index(R"({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors",
            "c": "model-00001-of-00002.safetensors"})");
  const Checkpoint checkpoint(directory_.path());
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"c", "a", "b"}));
  EXPECT_EQ(checkpoint.file_of("b").filename(), "model-00002-of-00002.safetensors");
}

TEST_F(CheckpointDirectory, OpensLooseFilesWithoutAnIndex) {
  shard("part2.safetensors", {"b"});
  shard("part1.safetensors", {"a"});
  EXPECT_EQ(Checkpoint(directory_.path()).names(), (std::vector<std::string>{"a", "b"}));
}

TEST_F(CheckpointDirectory, FollowsTheLinksOfTheHubCache) {
  shard("model.safetensors", {"a"});
  const auto snapshot = directory_ / "snapshots" / "0";
  fs::create_directories(snapshot);
  for (const char* name : {"config.json", "model.safetensors"})
    fs::create_symlink(fs::path("../..") / name, snapshot / name);
  write_text(directory_ / "blobs" / "1", "{}");
  fs::create_symlink("../../blobs/1", snapshot / "tokenizer.json");
  const Checkpoint checkpoint(snapshot);
  EXPECT_EQ(checkpoint.names(), std::vector<std::string>{"a"});
  EXPECT_EQ(checkpoint.side_files(), std::vector<fs::path>{"tokenizer.json"});
}

TEST_F(CheckpointDirectory, NamesWhatIsMissing) {
  EXPECT_TRUE(contains(error_of([&] { Checkpoint c(directory_ / "none"); }), "none: no such directory"));
  EXPECT_TRUE(contains(error(), directory_.path().string() + ": no .safetensors file"));
  write_text(directory_ / "pytorch_model.bin", "x");
  EXPECT_TRUE(contains(error(), "PyTorch pickles are not read"));
  fs::remove(directory_ / "config.json");
  EXPECT_TRUE(contains(error(), "config.json: no such file"));
}

TEST_F(CheckpointDirectory, NamesAMissingShard) {
  shard("m1.safetensors", {"a"});
  index(R"({"a": "m1.safetensors", "b": "m2.safetensors", "c": "m3.safetensors"})");
  EXPECT_TRUE(
      contains(error(), "m2.safetensors: the shard is missing, and 1 more of 3. The download is incomplete"));
  shard("m2.safetensors", {"b"});
  EXPECT_TRUE(
      contains(error(), "m3.safetensors: the shard is missing. The download is incomplete: fetch it again."));
}

TEST_F(CheckpointDirectory, NamesATensorThatIsNotWhereTheIndexSays) {
  shard("m1.safetensors", {"a", "b"});
  shard("m2.safetensors", {"c"});
  index(R"({"a": "m1.safetensors", "b": "m2.safetensors"})");
  EXPECT_TRUE(contains(error(), "m2.safetensors: tensor 'b' is not in this shard"));
  index(R"({"a": "m1.safetensors", "d": "m2.safetensors"})");
  EXPECT_TRUE(contains(error(), "m2.safetensors: tensor 'd' is not in this shard"));
}

TEST_F(CheckpointDirectory, RefusesATensorThatTwoShardsHold) {
  shard("m1.safetensors", {"a"});
  shard("m2.safetensors", {"a"});
  EXPECT_TRUE(contains(error(), "m2.safetensors: tensor 'a' is also in m1.safetensors"));
}

TEST_F(CheckpointDirectory, RefusesShardNamesThatLeaveTheDirectory) {
  for (const char* name :
       {"../m.safetensors", "/etc/passwd", "sub/m.safetensors", "..", ".", "", "a\\\\b", "a\\n"}) {
    index(visq::format(R"({{"a": "{}"}})", name));
    EXPECT_TRUE(contains(error(), "which is not a plain file name")) << name;
  }
}

TEST_F(CheckpointDirectory, RefusesABrokenIndex) {
  index("3");
  EXPECT_TRUE(contains(error(), "model.safetensors.index.json: 'weight_map' is missing"));
  index("{}");
  EXPECT_TRUE(contains(error(), "'weight_map' is empty"));
  index(R"({"a": 1})");
  EXPECT_TRUE(contains(error(), "the shard of tensor 'a' is not a string"));
  index("{");
  EXPECT_TRUE(contains(error(), "not valid JSON"));
  index(visq::format(R"({{"a": "{}"}})", std::string(300, 'x')));  // longer than a file name can be
  EXPECT_TRUE(contains(error(), "the shard is missing"));
  index(std::string(1'000'000, '['));
  EXPECT_TRUE(contains(error(), "not valid JSON"));
}

TEST_F(CheckpointDirectory, RefusesAConfigThatIsNoObject) {
  shard("model.safetensors", {"a"});
  write_text(directory_ / "config.json", "[]");
  EXPECT_TRUE(contains(error(), "config.json: not a JSON object"));
}

TEST_F(CheckpointDirectory, NamesATensorThatItDoesNotHave) {
  shard("model.safetensors", {"a"});
  const Checkpoint checkpoint(directory_.path());
  const std::string expected = directory_.path().string() + ": the checkpoint has no tensor 'x'";
  EXPECT_EQ(error_of([&] { checkpoint.tensor("x"); }), expected);
  EXPECT_EQ(error_of([&] { checkpoint.info("x"); }), expected);
  EXPECT_EQ(error_of([&] { checkpoint.bytes("x"); }), expected);
  EXPECT_EQ(error_of([&] { checkpoint.file_of("x"); }), expected);
}

TEST_F(CheckpointDirectory, SideFilesAreAllButWeightsConfigAndHiddenFiles) {
  shard("model.safetensors", {"a"});
  for (const char* name :
       {"tokenizer.json", "modeling.py", "hf_quant_config.json", "pytorch_model.bin", "x.gguf", "x.pth",
        "pytorch_model.bin.index.json", ".gitattributes", ".cache/x", "llm/config.json",
        "llm/model.safetensors", "llm/.hidden", "a/b/deep.txt", "1_Pooling/config.json"})
    write_text(directory_ / name, "x");
  fs::create_symlink("nowhere", directory_ / "dangling");
  fs::create_symlink("/etc", directory_ / "etc");
  fs::create_symlink("/dev/null", directory_ / "null");
  EXPECT_EQ(
      Checkpoint(directory_.path()).side_files(),
      (std::vector<fs::path>{"1_Pooling/config.json", "llm/config.json", "modeling.py", "tokenizer.json"}));
}

// VILA's kind: a configuration above three folders.
class PartsDirectory : public CheckpointDirectory {
 protected:
  PartsDirectory() {
    write_text(
        directory_ / "config.json",
        R"({"model_type": "llava_llama", "llm_cfg": {"hidden_size": 1}, "vision_tower_cfg": "/train/tower",
                   "mm_projector_cfg": null})");
    for (const char* folder : {"llm", "vision_tower", "mm_projector"})
      write_text(directory_ / folder / "config.json", visq::format(R"({{"from": "{}"}})", folder));
    shard("llm/model-00001-of-00002.safetensors", {"model.b", "model.a"});
    shard("llm/model-00002-of-00002.safetensors", {"lm_head"});
    write_text(directory_ / "llm" / "model.safetensors.index.json",
               R"({"weight_map": {"model.a": "model-00001-of-00002.safetensors",
                                  "model.b": "model-00001-of-00002.safetensors",
                                  "lm_head": "model-00002-of-00002.safetensors"}})");
    shard("vision_tower/model.safetensors", {"model.a"});
    shard("mm_projector/model.safetensors", {"layers.1"});
  }
};

TEST_F(PartsDirectory, NamesTensorsByTheirFolder) {
  const Checkpoint checkpoint(directory_.path());
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"llm.model.b", "llm.model.a", "llm.lm_head",
                                                          "vision_tower.model.a", "mm_projector.layers.1"}));
  EXPECT_EQ(checkpoint.info("llm.model.a").name, "llm.model.a");
  EXPECT_EQ(checkpoint.tensor("llm.lm_head")[0][0].item<float>(), 7.0f);
  EXPECT_EQ(checkpoint.file_of("vision_tower.model.a"), directory_ / "vision_tower" / "model.safetensors");
  EXPECT_FALSE(checkpoint.contains("model.a"));
  EXPECT_EQ(checkpoint.total_bytes(), 5u * 16);
  EXPECT_TRUE(checkpoint.in_text_model("llm.lm_head"));
  EXPECT_FALSE(checkpoint.in_text_model("vision_tower.model.a"));
  EXPECT_EQ(checkpoint.name_in_part("llm.model.a"), "model.a");
}

TEST_F(PartsDirectory, TheFoldersConfigurationsReplaceWhatTheRootSaysOfThem) {
  const Checkpoint checkpoint(directory_.path());
  EXPECT_EQ(checkpoint.config(), Json::parse(R"({"model_type": "llava_llama", "llm_cfg": {"from": "llm"},
      "vision_tower_cfg": {"from": "vision_tower"}, "mm_projector_cfg": {"from": "mm_projector"}})"));
  EXPECT_EQ(checkpoint.text_model().config_text, R"({"from": "llm"})");
  EXPECT_EQ(checkpoint.text_model().folder, "llm");
  EXPECT_EQ(checkpoint.text_model().directory, directory_ / "llm");
}

TEST_F(PartsDirectory, OneKeyOfARootIsEnough) {
  write_text(directory_ / "config.json", R"({"mm_projector_cfg": "x"})");
  EXPECT_EQ(Checkpoint(directory_.path()).config().at("llm_cfg").at("from"), "llm");
}

TEST_F(PartsDirectory, SideFilesAreTheOtherFoldersWholeAndTheTextModelsWithoutWeights) {
  for (const char* name : {"llm/tokenizer.json", "llm/hf_quant_config.json", "trainer_state.json",
                           "vision_tower/preprocessor_config.json", "vision_tower/pytorch_model.bin",
                           "vision_tower/model.safetensors.index.json", "mm_projector/.hidden"})
    write_text(directory_ / name, "x");
  EXPECT_EQ(
      Checkpoint(directory_.path()).side_files(),
      (std::vector<fs::path>{
          "config.json", "llm/tokenizer.json", "mm_projector/config.json", "mm_projector/model.safetensors",
          "trainer_state.json", "vision_tower/config.json", "vision_tower/model.safetensors",
          "vision_tower/model.safetensors.index.json", "vision_tower/preprocessor_config.json"}));
}

TEST_F(PartsDirectory, FollowsALinkToAFolder) {
  fs::rename(directory_ / "vision_tower", directory_ / "elsewhere");
  fs::create_symlink("elsewhere", directory_ / "vision_tower");
  const auto files = Checkpoint(directory_.path()).side_files();
  EXPECT_NE(std::find(files.begin(), files.end(), "vision_tower/model.safetensors"), files.end());
}

TEST_F(PartsDirectory, NamesWhatIsMissing) {
  fs::remove(directory_ / "llm" / "model-00002-of-00002.safetensors");
  EXPECT_TRUE(contains(error(), "llm/model-00002-of-00002.safetensors: the shard is missing"));
  fs::remove_all(directory_ / "llm" / "model.safetensors.index.json");
  fs::remove(directory_ / "mm_projector" / "model.safetensors");
  EXPECT_TRUE(contains(error(), "mm_projector: no .safetensors file"));
  fs::remove(directory_ / "mm_projector" / "config.json");
  EXPECT_TRUE(contains(error(), "mm_projector/config.json: no such file"));
  fs::remove_all(directory_ / "vision_tower");
  EXPECT_TRUE(contains(error(), "vision_tower: no such directory, though config.json is that of a VILA"));
}

TEST_F(PartsDirectory, NamesATensorThatIsNotWhereTheIndexSays) {
  write_text(directory_ / "llm" / "model.safetensors.index.json",
             R"({"weight_map": {"model.x": "model-00001-of-00002.safetensors"}})");
  EXPECT_TRUE(
      contains(error(), "llm/model-00001-of-00002.safetensors: tensor 'model.x' is not in this shard"));
}

}  // namespace
}  // namespace visq
