#include "visq/io/checkpoint_writer.h"

#include <ATen/ATen.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <memory>
#include <thread>

#include "tests/unit/io/fixtures.h"
#include "visq/core/format.h"
#include "visq/core/json.h"
#include "visq/io/checkpoint.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

// Every tensor takes 16 bytes.
std::vector<PlannedTensor> plan_of(const std::vector<std::string>& names) {
  std::vector<PlannedTensor> plan;
  for (const auto& name : names) plan.push_back({name, at::kFloat, {2, 2}});
  return plan;
}

class Writer : public ::testing::Test {
 protected:
  std::unique_ptr<CheckpointWriter> open(std::vector<PlannedTensor> plan,
                                         CheckpointWriter::Options options = {}) {
    return std::make_unique<CheckpointWriter>(out_, std::move(plan), options);
  }
  std::string open_error(bool replace = false) {
    return error_of([&] { open(plan_of({"a"}), {.replace_existing = replace}); });
  }
  void save(const std::string& name, double value, bool replace = false) {
    const auto writer = open(plan_of({name}), {.replace_existing = replace});
    writer->write(name, at::full({2, 2}, value));
    writer->write_file("config.json", "{}");
    writer->finish();
  }
  size_t entries() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(directory_.path()), fs::directory_iterator()));
  }

  TemporaryDirectory directory_;
  fs::path out_ = directory_ / "out";
};

TEST_F(Writer, WritesWhatTheReaderReads) {
  const auto writer = open({{"w", at::kBFloat16, {2, 3}}, {"scale", at::kFloat, {}}, {"q", at::kByte, {5}}});
  EXPECT_EQ(writer->total_bytes(), 12u + 4u + 5u);
  const at::Tensor w = at::arange(6, at::kBFloat16).view({2, 3});
  const std::vector<std::byte> q(5, std::byte{9});
  writer->write("q", q);
  writer->write("w", w.t().contiguous().t());  // strided: written in its logical order
  writer->write("scale", at::tensor(0.5f).squeeze());
  writer->write_file("config.json", R"({"x": 1})");
  EXPECT_FALSE(fs::exists(out_));
  writer->finish();

  EXPECT_FALSE(fs::exists(writer->partial_directory()));
  EXPECT_FALSE(fs::exists(out_ / "model.safetensors.index.json"));
  const Checkpoint checkpoint(out_);
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"scale", "w", "q"}));  // the widest element first
  EXPECT_EQ(checkpoint.config().at("x"), 1);
  EXPECT_TRUE(at::equal(checkpoint.tensor("w"), w));
  EXPECT_EQ(checkpoint.tensor("scale").item<float>(), 0.5f);
  EXPECT_TRUE(at::equal(checkpoint.tensor("q"), at::full({5}, 9, at::kByte)));
}

TEST_F(Writer, CopiesTensorsOfACheckpoint) {
  // More than the system copies at once, to another place in the file, and nothing at all.
  const at::Tensor large = at::arange(3 << 20, at::kInt), small = at::arange(7, at::kByte);
  const fs::path source = directory_ / "source";
  fs::create_directories(source);
  write_safetensors(source / "model.safetensors",
                    {{"a", small}, {"b", large}, {"c", at::empty({0}, at::kByte)}});
  std::ofstream(source / "config.json") << "{}";
  const Checkpoint checkpoint(source);
  const auto writer = open(
      {{"first", at::kByte, {5}}, {"a", at::kByte, {7}}, {"b", at::kInt, {3 << 20}}, {"c", at::kByte, {0}}});
  writer->write("first", at::ones({5}, at::kByte));
  for (const char* name : {"a", "b", "c"}) writer->copy(name, checkpoint);
  EXPECT_THROW(writer->copy("b", checkpoint), Error);  // twice
  writer->write_file("config.json", "{}");
  writer->finish();
  const Checkpoint copied(out_);
  EXPECT_TRUE(at::equal(copied.tensor("a"), small));
  EXPECT_TRUE(at::equal(copied.tensor("b"), large));
  EXPECT_TRUE(at::equal(copied.tensor("first"), at::ones({5}, at::kByte)));
}

TEST_F(Writer, RefusesToCopyATensorOfAnotherSize) {
  const fs::path source = directory_ / "source";
  fs::create_directories(source);
  write_safetensors(source / "model.safetensors", {{"a", at::ones({3})}});
  std::ofstream(source / "config.json") << "{}";
  const auto writer = open(plan_of({"a"}));
  EXPECT_NE(error_of([&] { writer->copy("a", Checkpoint(source)); }).find("has 12 bytes, planned are 16"),
            std::string::npos);
}

TEST_F(Writer, StartsAShardWhereTheNextTensorWouldNotFit) {
  auto plan = plan_of({"a", "b", "c", "d", "e"});
  plan[3].shape = {10};  // 40 bytes: more than a shard, so alone in one
  const auto writer = open(plan, {.max_shard_bytes = 32});
  for (const auto& tensor : plan) writer->write(tensor.name, at::zeros(tensor.shape));
  writer->finish();

  const Json index = read_json(out_ / "model.safetensors.index.json");
  EXPECT_EQ(index, Json::parse(R"({"metadata": {"total_size": 104}, "weight_map": {
      "a": "model-00001-of-00004.safetensors", "b": "model-00001-of-00004.safetensors",
      "c": "model-00002-of-00004.safetensors", "d": "model-00003-of-00004.safetensors",
      "e": "model-00004-of-00004.safetensors"}})"));
  EXPECT_EQ(SafetensorsFile(out_ / "model-00001-of-00004.safetensors").tensors().size(), 2u);
  EXPECT_FALSE(fs::exists(out_ / "model.safetensors"));
}

TEST_F(Writer, WritesThePartOfACheckpointIntoItsFolder) {
  const auto plan = plan_of({"llm.a", "llm.b", "llm.c"});
  const auto writer = open(plan, {.max_shard_bytes = 32, .folder = "llm"});
  for (const auto& tensor : plan) writer->write(tensor.name, at::zeros(tensor.shape));
  writer->write_file("llm/config.json", "{}");
  writer->write_file("mm_projector/model.safetensors", "x");
  EXPECT_TRUE(contains(error_of([&] { writer->write_file("llm/model.safetensors.index.json", "x"); }),
                       "this name belongs to the weights"));
  writer->finish();
  EXPECT_EQ(read_json(out_ / "llm" / "model.safetensors.index.json"),
            Json::parse(R"({"metadata": {"total_size": 48}, "weight_map": {
      "a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors",
      "c": "model-00002-of-00002.safetensors"}})"));
  EXPECT_NE(SafetensorsFile(out_ / "llm" / "model-00002-of-00002.safetensors").find("c"), nullptr);
  EXPECT_EQ(read_all(out_ / "mm_projector" / "model.safetensors"), "x");
}

TEST_F(Writer, RefusesATensorOfAnotherFolder) {
  EXPECT_EQ(error_of([&] {
              open(plan_of({"llm.a", "llmb"}), {.folder = "llm"});
            }),
            "tensor 'llmb' does not belong to the folder 'llm'");
}

TEST_F(Writer, ClearsAwayWhatAKilledRunLeftInAFolder) {
  write_text(out_.string() + ".partial/llm/model.safetensors", "x");
  EXPECT_TRUE(contains(open_error(), "is not the rest of an earlier run"));
  open(plan_of({"llm.a"}), {.folder = "llm"});
}

TEST_F(Writer, NeedsRoomForTheFilesThatWillBeCopiedToo) {
  const uint64_t more = uint64_t{1} << 60;
  EXPECT_TRUE(contains(error_of([&] { open(plan_of({"a"}), {.copied_bytes = more}); }), "disk is full"));
}

TEST_F(Writer, AlignsEveryTensorForItsType) {
  const auto writer =
      open({{"a", at::kByte, {3}}, {"b", at::kHalf, {3}}, {"c", at::kDouble, {1}}, {"d", at::kFloat, {1}}});
  for (const auto* name : {"a", "b", "c", "d"}) {
    const auto size = name[0] == 'a' ? 3 : name[0] == 'b' ? 6 : name[0] == 'c' ? 8 : 4;
    writer->write(name, std::vector<std::byte>(size));
  }
  writer->finish();
  const SafetensorsFile file(out_ / "model.safetensors");
  for (const auto& tensor : file.tensors())
    EXPECT_EQ(tensor.begin % c10::elementSize(tensor.dtype), 0u) << tensor.name;
}

TEST_F(Writer, BytesDoNotDependOnTheOrderOrTheThreadsOfTheWrites) {
  std::vector<std::string> names;
  for (int i = 0; i < 40; ++i) names.push_back(visq::format("t{}", i));
  const auto value = [](int i) { return at::full({2, 2}, i); };
  {
    const auto writer = open(plan_of(names));
    for (int i = 0; i < 40; ++i) writer->write(names[static_cast<size_t>(i)], value(i).to(at::kFloat));
    writer->finish();
  }
  const std::string first = read_all(out_ / "model.safetensors");
  fs::remove_all(out_);
  {
    const auto writer = open(plan_of(names));
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread)
      threads.emplace_back([&, thread] {
        for (int i = 39 - thread; i >= 0; i -= 4)
          writer->write(names[static_cast<size_t>(i)], value(i).to(at::kFloat));
      });
    for (auto& thread : threads) thread.join();
    writer->finish();
  }
  EXPECT_EQ(read_all(out_ / "model.safetensors"), first);
}

TEST_F(Writer, AnEmptyPlanGivesAnEmptyFile) {
  open({})->finish();
  EXPECT_TRUE(SafetensorsFile(out_ / "model.safetensors").tensors().empty());
}

TEST_F(Writer, RefusesWhatIsNotAsPlanned) {
  const auto writer = open(plan_of({"a"}));
  const std::string out = out_.string();
  EXPECT_EQ(error_of([&] { writer->write("x", at::zeros({2, 2})); }), out + ": tensor 'x' is not planned");
  EXPECT_EQ(error_of([&] { writer->write("a", at::zeros({4})); }),
            out + ": tensor 'a' is Float [4], planned as Float [2, 2]");
  EXPECT_EQ(error_of([&] {
              writer->write("a", at::zeros({2, 2}, at::kHalf));
            }),
            out + ": tensor 'a' is Half [2, 2], planned as Float [2, 2]");
  EXPECT_EQ(error_of([&] { writer->write("a", std::vector<std::byte>(15)); }),
            out + ": tensor 'a' has 15 bytes, planned are 16");
  writer->write("a", at::zeros({2, 2}));
  EXPECT_EQ(error_of([&] { writer->write("a", at::zeros({2, 2})); }), out + ": tensor 'a' is written twice");
}

TEST_F(Writer, RefusesAnImpossiblePlan) {
  EXPECT_TRUE(contains(error_of([&] { open(plan_of({"a", "a"})); }), "tensor 'a' is planned twice"));
  EXPECT_TRUE(contains(error_of([&] { open({{"a", at::kFloat, {-1}}}); }), "impossible shape: Float [-1]"));
  EXPECT_TRUE(contains(error_of([&] {
                         open({{"a", at::kComplexFloat, {1}}});
                       }),
                       "no dtype for ComplexFloat"));
  EXPECT_EQ(entries(), 0u);
}

TEST_F(Writer, FinishNamesATensorThatWasNeverWritten) {
  const auto writer = open(plan_of({"a", "b"}));
  writer->write("a", at::zeros({2, 2}));
  EXPECT_EQ(error_of([&] { writer->finish(); }),
            out_.string() + ": tensor 'b' was planned but never written");
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(Writer, TheDestructorRemovesWhatIsNotFinished) {
  {
    const auto writer = open(plan_of({"a"}));
    writer->write_file("sub/x.txt", "x");
    EXPECT_TRUE(fs::exists(directory_ / "out.partial" / "sub" / "x.txt"));
  }
  EXPECT_EQ(entries(), 0u);
}

TEST_F(Writer, CreatesParentFoldersAndAcceptsASlashAtTheEnd) {
  out_ = directory_ / "x" / "y" / "out" / "";
  save("a", 1);
  EXPECT_TRUE(fs::exists(directory_ / "x" / "y" / "out" / "model.safetensors"));
}

TEST_F(Writer, UsesAnEmptyDirectory) {
  fs::create_directory(out_);
  save("a", 1);
  EXPECT_TRUE(fs::exists(out_ / "model.safetensors"));
}

TEST_F(Writer, WritesThroughALinkToADirectory) {
  fs::create_directory(directory_ / "disk");
  fs::create_directory_symlink("disk", out_);
  save("a", 1);
  EXPECT_TRUE(fs::is_symlink(out_));
  EXPECT_TRUE(fs::exists(directory_ / "disk" / "model.safetensors"));
}

TEST_F(Writer, RefusesAnExistingDirectory) {
  save("a", 1);
  EXPECT_EQ(open_error(), out_.string() + ": exists and is not empty: choose another output or pass --force");
  EXPECT_EQ(Checkpoint(out_).tensor("a")[0][0].item<float>(), 1.0f);
}

TEST_F(Writer, RefusesATargetThatIsAFileOrCannotBeCreated) {
  write_text(out_, "x");
  EXPECT_TRUE(contains(open_error(true), "exists and is not a directory"));
  out_ = out_ / "below";
  EXPECT_TRUE(contains(open_error(), "Not a directory"));
}

TEST_F(Writer, ReplacesAnExistingCheckpointOnlyWhenItFinishes) {
  save("a", 1);
  {
    const auto writer = open(plan_of({"b"}), {.replace_existing = true});
    writer->write("b", at::full({2, 2}, 2.0));
    EXPECT_TRUE(Checkpoint(out_).contains("a"));
  }
  EXPECT_TRUE(Checkpoint(out_).contains("a")) << "not finished, so nothing changed";
  save("b", 2, /*replace=*/true);
  EXPECT_EQ(Checkpoint(out_).names(), std::vector<std::string>{"b"});
  EXPECT_EQ(entries(), 1u) << "the old one is gone";
}

TEST_F(Writer, DoesNotReplaceADirectoryThatIsNoCheckpoint) {
  write_text(out_ / "thesis.tex", "x");
  EXPECT_TRUE(contains(open_error(true), "does not look like a checkpoint"));
  EXPECT_EQ(read_all(out_ / "thesis.tex"), "x");
}

TEST_F(Writer, RefusesADirectoryThatCameIntoBeingMeanwhile) {
  const auto writer = open(plan_of({"a"}));
  writer->write("a", at::zeros({2, 2}));
  write_text(out_ / "x", "x");
  EXPECT_TRUE(contains(error_of([&] { writer->finish(); }), "exists and is not empty"));
}

TEST_F(Writer, RemovesTheRestOfADeadRun) {
  write_text(directory_ / "out.partial" / "model.safetensors", "half");
  write_text(directory_ / "out.partial" / "stale.txt", "x");
  save("a", 1);
  EXPECT_FALSE(fs::exists(out_ / "stale.txt"));
}

TEST_F(Writer, LeavesAPartialThatIsNotOurs) {
  write_text(directory_ / "out.partial" / "thesis.tex", "x");
  EXPECT_TRUE(contains(open_error(), "is not the rest of an earlier run"));
  EXPECT_TRUE(fs::exists(directory_ / "out.partial" / "thesis.tex"));
  fs::remove_all(directory_ / "out.partial");
  fs::create_directory(directory_ / "elsewhere");
  fs::create_directory_symlink("elsewhere", directory_ / "out.partial");
  EXPECT_TRUE(contains(open_error(), "is not the rest of an earlier run"));
}

TEST_F(Writer, RefusesASecondRunWhileTheFirstIsAtWork) {
  const auto writer = open(plan_of({"a"}));
  EXPECT_EQ(open_error(), out_.string() + ".partial: another run is writing it");
  writer->write("a", at::zeros({2, 2}));
  writer->finish();
  EXPECT_TRUE(fs::exists(out_ / "model.safetensors"));
}

TEST_F(Writer, CopiesSideFilesThroughLinks) {
  write_text(directory_ / "blob", "tokens");
  fs::create_symlink("blob", directory_ / "link");
  const auto writer = open({});
  writer->copy_file("tokenizer/tokenizer.json", directory_ / "link");
  writer->write_file("a.json", "longer than the next");
  writer->write_file("a.json", "short");
  EXPECT_EQ(error_of([&] { writer->copy_file("b", directory_ / "none"); }),
            (directory_ / "none").string() + ": no such file");
  writer->finish();
  EXPECT_EQ(read_all(out_ / "tokenizer" / "tokenizer.json"), "tokens");
  EXPECT_FALSE(fs::is_symlink(out_ / "tokenizer" / "tokenizer.json"));
  EXPECT_EQ(read_all(out_ / "a.json"), "short");
}

TEST_F(Writer, RefusesSideFilesThatLeaveTheDirectoryOrHitTheWeights) {
  const auto writer = open(plan_of({"a"}));
  for (const char* name : {"", "/etc/x", "../x", "a/../../x", "a/"})
    EXPECT_TRUE(contains(error_of([&] { writer->write_file(name, "x"); }), "not a file name inside")) << name;
  for (const char* name : {"model.safetensors", "./model.safetensors", "model.safetensors.index.json"})
    EXPECT_TRUE(contains(error_of([&] { writer->write_file(name, "x"); }), "belongs to the weights")) << name;
  EXPECT_TRUE(
      contains(error_of([&] { writer->copy_file("../x", "/etc/hostname"); }), "not a file name inside"));
}

TEST_F(Writer, SaysSoBeforehandWhenTheDiskHasNoRoom) {
  const std::string message = error_of([&] { open({{"a", at::kByte, {int64_t{1} << 60}}}); });
  EXPECT_TRUE(
      contains(message, "output disk is full: " + directory_.path().string() + " needs 11529215046068"));
  EXPECT_TRUE(contains(message, " free"));
  EXPECT_EQ(entries(), 0u);
}

/// A disk of one megabyte, where the tests may mount one.
class TinyDisk {
 public:
  explicit TinyDisk(fs::path at) : at_(std::move(at)) {
    fs::create_directory(at_);
    mounted_ = mount("tmpfs", at_.c_str(), "tmpfs", 0, "size=1m") == 0;
  }
  ~TinyDisk() {
    if (mounted_) umount2(at_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }

 private:
  fs::path at_;
  bool mounted_ = false;
};

TEST_F(Writer, NoticesADiskThatFillsUpMeanwhile) {
  const TinyDisk disk(directory_ / "disk");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs is not permitted here";
  const std::string text(400'000, 'x');
  out_ = directory_ / "disk" / "out";
  {
    const auto writer = open({{"a", at::kByte, {500'000}}});
    writer->write_file("first.txt", text);
    const std::string message = error_of([&] { writer->write_file("second.txt", text); });
    EXPECT_TRUE(
        contains(message, "output disk is full: " + writer->partial_directory().string() + " needs "));
    EXPECT_TRUE(contains(message, " 0 free"));
    write_text(directory_ / "source", text);
    EXPECT_TRUE(contains(error_of([&] { writer->copy_file("third.txt", directory_ / "source"); }),
                         "output disk is full"));
    writer->write("a", std::vector<std::byte>(500'000));  // its space was reserved
  }
  EXPECT_TRUE(fs::is_empty(directory_ / "disk"));
}

/// A limit on the size of files that ends with the scope. SIGXFSZ, which would end the process, is ignored.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit now{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &now);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

TEST_F(Writer, NamesAFileSizeLimit) {
  {
    const FileSizeLimit limit(100'000);
    EXPECT_TRUE(contains(error_of([&] {
                           open({{"a", at::kByte, {200'000}}});
                         }),
                         "out.partial/model.safetensors: larger than the file size limit"));
  }
  EXPECT_EQ(entries(), 0u);
}

TEST_F(Writer, AWriteThatFailedDoesNotCountAsWritten) {
  const auto writer = open({{"a", at::kByte, {200'000}}});
  const std::vector<std::byte> bytes(200'000);
  {
    const FileSizeLimit limit(100'000);
    EXPECT_TRUE(contains(error_of([&] { writer->write("a", bytes); }), "larger than the file size limit"));
  }
  EXPECT_TRUE(contains(error_of([&] { writer->finish(); }), "never written"));
  writer->write("a", bytes);
  writer->finish();
}

}  // namespace
}  // namespace visq
