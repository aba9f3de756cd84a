#include "visq/io/safetensors.h"

#include <ATen/ATen.h>
#include <sys/stat.h>

#include <cstring>
#include <vector>

#include "tests/unit/io/fixtures.h"
#include "visq/core/format.h"

namespace visq {
namespace {

/// A file made by hand, so that the reader is not tested against our own writer.
std::string file_of(std::string_view header, std::string_view data = "") {
  std::string file;
  for (int byte = 0; byte < 8; ++byte) file += static_cast<char>(header.size() >> (8 * byte) & 0xff);
  return file.append(header).append(data);
}

class Safetensors : public ::testing::Test {
 protected:
  std::filesystem::path save(std::string_view content) {
    const auto path = directory_ / "x.safetensors";
    write_text(path, content);
    return path;
  }
  std::string error_for(std::string_view content) {
    const auto path = save(content);
    const std::string message = error_of([&] { SafetensorsFile file(path); });
    EXPECT_TRUE(message.empty() || message.starts_with(path.string())) << message;
    return message;
  }
  std::string error_for_header(std::string_view header, std::string_view data = "") {
    return error_for(file_of(header, data));
  }
  TemporaryDirectory directory_;
};

TEST_F(Safetensors, ReadsAFileMadeByHand) {
  const SafetensorsFile file(
      save(file_of(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"I16","shape":[2],"data_offsets":[4,8]},)"
                   R"("a":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}}  )",
                   std::string_view("\x01\x02\x03\x04\x05\x00\xff\xff", 8))));
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].name, "a");  // file order, not header order
  EXPECT_EQ(file.tensors()[1].shape, std::vector<int64_t>{2});
  EXPECT_TRUE(at::equal(file.tensor(*file.find("a")), at::tensor({1, 2, 3, 4}, at::kByte).view({2, 2})));
  EXPECT_TRUE(at::equal(file.tensor(*file.find("b")), at::tensor({5, -1}, at::kShort)));
  EXPECT_EQ(file.bytes(*file.find("a"))[3], std::byte{4});
  EXPECT_EQ(file.find("c"), nullptr);
}

TEST_F(Safetensors, ReadsAFileWithoutTensors) {
  EXPECT_TRUE(SafetensorsFile(save(file_of("{}"))).tensors().empty());
}

TEST_F(Safetensors, TensorsOutliveTheFileObject) {
  const auto path = save(file_of(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "\x07\x08\x09"));
  at::Tensor tensor;
  {
    const SafetensorsFile file(path);
    tensor = file.tensor(*file.find("a"));
  }
  EXPECT_TRUE(at::equal(tensor, at::tensor({7, 8, 9}, at::kByte)));
}

TEST_F(Safetensors, AlignedTensorsAreViewsOfTheMappingAndOthersAreCopies) {
  // The header fills a multiple of 8 bytes: 'a' is aligned for floats, 'b' one byte off.
  std::string header =
      R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]},)"
      R"("c":{"dtype":"I8","shape":[1],"data_offsets":[4,5]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const float values[] = {1.5f, -2.25f};
  std::string data(9, '\x7f');
  std::memcpy(data.data(), &values[0], 4);
  std::memcpy(data.data() + 5, &values[1], 4);
  const SafetensorsFile file(save(file_of(header, data)));
  const at::Tensor a = file.tensor(*file.find("a")), b = file.tensor(*file.find("b"));
  EXPECT_EQ(a.dim(), 0);
  EXPECT_EQ(a.item<float>(), 1.5f);
  EXPECT_EQ(b.item<float>(), -2.25f);
  EXPECT_EQ(static_cast<const void*>(a.const_data_ptr()), file.bytes(*file.find("a")).data());
  EXPECT_NE(static_cast<const void*>(b.const_data_ptr()), file.bytes(*file.find("b")).data());
}

TEST_F(Safetensors, RoundTripsEveryDtype) {
  const std::vector<std::pair<at::ScalarType, std::string_view>> dtypes = {
      {at::kBool, "BOOL"},
      {at::kByte, "U8"},
      {at::kChar, "I8"},
      {at::kShort, "I16"},
      {at::kUInt16, "U16"},
      {at::kInt, "I32"},
      {at::kUInt32, "U32"},
      {at::kLong, "I64"},
      {at::kUInt64, "U64"},
      {at::kHalf, "F16"},
      {at::kBFloat16, "BF16"},
      {at::kFloat, "F32"},
      {at::kDouble, "F64"},
      {at::kFloat8_e4m3fn, "F8_E4M3"},
      {at::kFloat8_e5m2, "F8_E5M2"},
      {at::kFloat8_e8m0fnu, "F8_E8M0"},
  };
  const auto path = directory_ / "all.safetensors";
  const std::vector<std::vector<int64_t>> shapes = {{3, 5}, {}, {0, 4}};
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& [dtype, name] : dtypes) {
    EXPECT_EQ(safetensors_dtype(dtype), name);
    for (const auto& shape : shapes) {
      const at::Tensor tensor = at::empty(shape, dtype);
      auto* bytes = static_cast<uint8_t*>(tensor.mutable_data_ptr());
      for (size_t i = 0; i < tensor.nbytes(); ++i)
        bytes[i] = static_cast<uint8_t>(dtype == at::kBool ? i % 2 : 37 * i + 11);
      tensors.emplace_back(visq::format("{}-{}d-{}", name, shape.size(), tensor.numel()), tensor);
    }
  }

  write_safetensors(path, tensors);

  const SafetensorsFile file(path);
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    ASSERT_NE(file.find(name), nullptr) << name;
    const at::Tensor back = file.tensor(*file.find(name));
    EXPECT_EQ(back.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(back.sizes(), tensor.sizes()) << name;
    if (tensor.numel() == 0) continue;
    EXPECT_EQ(std::memcmp(back.const_data_ptr(), tensor.const_data_ptr(), tensor.nbytes()), 0) << name;
  }
}

TEST_F(Safetensors, WritesTheseBytesAndNoOthers) {
  const auto path = directory_ / "small.safetensors";
  write_safetensors(
      path, {{"s", at::tensor({1, 2, 3}, at::kByte)}, {"w", at::tensor({258}, at::kInt).view({1, 1})}});
  // The wider type first, then the order given; spaces up to a multiple of 8 (here: 141 characters and 3
  // spaces).
  EXPECT_EQ(read_all(path), file_of(R"({"__metadata__":{"format":"pt"},)"
                                    R"("w":{"dtype":"I32","shape":[1,1],"data_offsets":[0,4]},)"
                                    R"("s":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}})"
                                    "     ",
                                    std::string_view("\x02\x01\x00\x00\x01\x02\x03", 7)));
}

TEST_F(Safetensors, WritesStridedTensorsInTheirLogicalOrder) {
  const auto path = directory_ / "t.safetensors";
  write_safetensors(path, {{"t", at::arange(6, at::kInt).view({2, 3}).t()}});
  const SafetensorsFile file(path);
  EXPECT_TRUE(at::equal(file.tensor(*file.find("t")), at::tensor({0, 3, 1, 4, 2, 5}, at::kInt).view({3, 2})));
}

TEST_F(Safetensors, TheWriterRefusesWhatTheFormatCannotHold) {
  const auto path = directory_ / "x.safetensors";
  EXPECT_TRUE(contains(error_of([&] { write_safetensors(path, {{"", at::zeros(1)}}); }), "empty name"));
  EXPECT_TRUE(contains(error_of([&] {
                         write_safetensors(path, {{"a\n", at::zeros(1)}});
                       }),
                       "control characters"));
  EXPECT_TRUE(contains(error_of([&] {
                         write_safetensors(path, {{"a", at::zeros(1)}, {"a", at::zeros(1)}});
                       }),
                       "'a' is given twice"));
  EXPECT_TRUE(
      contains(error_of([&] { safetensors_dtype(at::kComplexFloat); }), "has no dtype for ComplexFloat"));
}

TEST_F(Safetensors, NamesAMissingFile) {
  EXPECT_EQ(error_of([&] { SafetensorsFile file(directory_ / "none"); }),
            (directory_ / "none").string() + ": no such file");
}

TEST_F(Safetensors, RefusesWhatIsNoRegularFile) {
  EXPECT_TRUE(contains(error_of([&] { SafetensorsFile file(directory_.path()); }), "not a regular file"));
  const auto pipe = directory_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);  // opening it must not wait for a writer
  EXPECT_TRUE(contains(error_of([&] { SafetensorsFile file(pipe); }), "not a regular file"));
}

TEST_F(Safetensors, TellsAShortFileFromABrokenOne) {
  const std::string header = R"({"model.w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})";
  ASSERT_EQ(header.size(), 63u);
  EXPECT_TRUE(
      contains(error_for_header(header, "123456789012345"),
               ": tensor 'model.w' ends at byte 87 but the file has 86 bytes. The download is incomplete: "
               "fetch this shard again."));
  EXPECT_TRUE(contains(error_for(file_of(header).substr(0, 70)),
                       "the header ends at byte 71 but the file has 70 bytes. The download is incomplete"));
  EXPECT_TRUE(contains(error_for("abc"), "3 bytes are no safetensors file. The download is incomplete"));
  EXPECT_TRUE(contains(error_for(""), "0 bytes are no safetensors file"));
}

TEST_F(Safetensors, NamesAGitLfsPointer) {
  EXPECT_TRUE(contains(error_for("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
                       "Git LFS pointer, not the file itself: run `git lfs pull`"));
}

TEST_F(Safetensors, RefusesAnOversizedHeaderBeforeReadingIt) {
  EXPECT_TRUE(contains(error_for(std::string(8, '\xff')),
                       "18446744073709551615 bytes, more than the 100000000 allowed"));
  EXPECT_TRUE(
      contains(error_for(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10)), "100000001 bytes, more than"));
}

TEST_F(Safetensors, RefusesAHeaderThatIsNoJsonObject) {
  EXPECT_TRUE(contains(error_for_header(""), "not a JSON object"));
  EXPECT_TRUE(contains(error_for_header(" {}"), "not a JSON object"));
  EXPECT_TRUE(contains(error_for_header("[]"), "not a JSON object"));
  EXPECT_TRUE(contains(error_for_header("{"), "not valid JSON"));
  EXPECT_TRUE(contains(error_for_header("{}x"), "not valid JSON"));
  EXPECT_TRUE(contains(error_for_header("{\"\xff\":1}"), "not valid JSON"));
  EXPECT_TRUE(contains(error_for_header(R"({"a":1})"), "the entry of tensor 'a' is not an object"));
  EXPECT_TRUE(contains(error_for_header(R"({"a":[]})"), "the entry of tensor 'a' is not an object"));
}

TEST_F(Safetensors, RefusesMetadataThatIsNoMapOfStrings) {
  for (const char* metadata :
       {"1", "[]", "null", R"({"a":1})", R"({"a":{}})", R"({"a":["b"]})", R"({"a":null})"})
    EXPECT_TRUE(contains(error_for_header(visq::format(R"({{"__metadata__":{}}})", metadata)),
                         "'__metadata__' is not a map of strings"))
        << metadata;
}

TEST_F(Safetensors, RefusesEntriesThatAreIncompleteOrOfTheWrongKind) {
  const auto error = [&](const std::string& entry) {
    return error_for_header("{\"a\":{" + entry + "}}", "1234");
  };
  const std::string dtype = R"("dtype":"F32")", shape = R"("shape":[1])", offsets = R"("data_offsets":[0,4])";
  ASSERT_EQ(error(dtype + "," + shape + "," + offsets), "");

  EXPECT_TRUE(contains(error(shape + "," + offsets), "tensor 'a' has no 'dtype'"));
  EXPECT_TRUE(contains(error(dtype + "," + offsets), "tensor 'a' has no 'shape'"));
  EXPECT_TRUE(contains(error(dtype + "," + shape), "tensor 'a' has no 'data_offsets'"));
  EXPECT_TRUE(contains(error(dtype + "," + dtype), "tensor 'a' has 'dtype' twice"));
  EXPECT_TRUE(contains(error(R"("color":1)"), "tensor 'a' has the unknown key \"color\""));
  EXPECT_TRUE(contains(error(R"("dtype":"F7")"), "tensor 'a' has the unknown dtype \"F7\""));
  EXPECT_TRUE(contains(error(R"("dtype":7)"), "'dtype' has an unexpected type"));
  EXPECT_TRUE(contains(error(R"("dtype":["F32"])"), "'dtype' has an unexpected type"));
  EXPECT_TRUE(contains(error(R"("shape":"1")"), "'shape' has an unexpected type"));
  EXPECT_TRUE(contains(error(R"("shape":{})"), "'shape' has an unexpected type"));
  for (const char* dimension : {"-1", "1.0", "null", "true", "\"1\"", "[1]", "18446744073709551616"})
    EXPECT_TRUE(
        contains(error(visq::format(R"("shape":[{}])", dimension)), "something else than whole numbers"))
        << dimension;
  for (const char* pair : {"[]", "[0]", "[0,4,4]", "[-1,4]", "[0,4.0]", "[0,null]", "[0,[4]]", "[0,\"4\"]"})
    EXPECT_TRUE(contains(error(visq::format(R"("data_offsets":{})", pair)), "'data_offsets' is not a pair"))
        << pair;
}

TEST_F(Safetensors, RefusesShapesThatOverflow) {
  const auto error = [&](const std::string& shape, const std::string& end) {
    return error_for_header(
        visq::format(R"({{"a":{{"dtype":"F32","shape":{},"data_offsets":[0,{}]}}}})", shape, end), "1234");
  };
  EXPECT_TRUE(contains(error("[4294967296,4294967296]", "0"), "tensor 'a' has an impossible shape"));
  EXPECT_TRUE(contains(error("[4611686018427387905]", "4"), "impossible shape"));  // times 4 is 2^64 + 4
  EXPECT_TRUE(contains(error("[9223372036854775808]", "4"), "impossible shape"));
  EXPECT_TRUE(contains(error("[0,4294967296,4294967296]", "0"), "impossible shape"));
  EXPECT_TRUE(contains(error(
                           "[1" +
                               [] {
                                 std::string ones;
                                 for (int i = 0; i < 64; ++i) ones += ",1";
                                 return ones;
                               }() +
                               "]",
                           "4"),
                       "more than 64 dimensions"));
}

TEST_F(Safetensors, RefusesRangesThatDoNotFit) {
  const auto error = [&](const std::string& offsets, const char* data = "1234") {
    return error_for_header(
        visq::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}})", offsets), data);
  };
  EXPECT_TRUE(contains(error("[0,3]"), "of dtype U8 and shape [4] takes 4 bytes, but its range holds 3"));
  EXPECT_TRUE(contains(error("[0,5]", "12345"), "takes 4 bytes, but its range holds 5"));
  EXPECT_TRUE(contains(error("[4,0]"), "begin <= end"));
  EXPECT_TRUE(contains(error("[9223372036854775804,9223372036854775808]"), "'data_offsets' is not a pair"));
  EXPECT_TRUE(contains(error("[18446744073709551612,18446744073709551615]"), "'data_offsets' is not a pair"));
  EXPECT_TRUE(contains(error("[1,5]", "12345"), "1 bytes before tensor 'a' belong to no tensor"));
  EXPECT_TRUE(contains(error("[0,4]", "12345"), "1 bytes behind the last tensor belong to no tensor"));
  EXPECT_TRUE(contains(error_for_header("{}", "1"), "1 bytes behind the last tensor"));
}

TEST_F(Safetensors, RefusesOverlapsAndGapsBetweenTensors) {
  const auto error = [&](const char* a, const char* b) {
    return error_for_header(visq::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":{}}},)"
                                         R"("b":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}})",
                                         a, b),
                            "12345678");
  };
  ASSERT_EQ(error("[4,8]", "[0,4]"), "");
  EXPECT_TRUE(contains(error("[0,4]", "[3,7]"), "tensors 'a' and 'b' overlap"));
  EXPECT_TRUE(contains(error("[0,4]", "[0,4]"), "tensors 'a' and 'b' overlap"));
  EXPECT_TRUE(contains(error("[0,4]", "[5,9]"), "1 bytes before tensor 'b' belong to no tensor"));
}

TEST_F(Safetensors, EmptyTensorsMayShareAPlace) {
  const SafetensorsFile file(save(file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                          R"("b":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},)"
                                          R"("c":{"dtype":"F32","shape":[2,0],"data_offsets":[1,1]}})",
                                          "x")));
  EXPECT_EQ(file.tensors().front().name, "b");
  EXPECT_EQ(file.tensor(*file.find("c")).sizes(), (std::vector<int64_t>{2, 0}));
}

TEST_F(Safetensors, RefusesANameThatStandsThereTwice) {
  EXPECT_TRUE(contains(error_for_header(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                        R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                                        "12"),
                       "tensor 'a' stands in the header twice"));
}

TEST_F(Safetensors, RefusesNamesThatAreEmptyOrHoldControlCharacters) {
  const std::string entry = R"(:{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})";
  EXPECT_TRUE(contains(error_for_header("{\"\"" + entry), "a tensor has an empty name"));
  for (const char* name : {"a\\u0000", "\\n", "\\u001b[31m", "\x7f", "\xc2\x9b"})
    EXPECT_TRUE(contains(error_for_header("{\"" + std::string(name) + "\"" + entry), "control characters"))
        << name;
  EXPECT_EQ(error_for_header("{\"größe\"" + entry), "");
}

}  // namespace
}  // namespace visq
