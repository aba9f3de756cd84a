#include "visq/core/process.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "visq/core/error.h"

namespace visq {
namespace {

std::string device_error(const std::string& name) {
  try {
    parse_device(name);
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

TEST(ParseDevice, KnowsCpuAndAuto) {
  EXPECT_EQ(parse_device("cpu"), at::Device(at::kCPU));
  EXPECT_EQ(parse_device("auto").type(), at::hasCUDA() ? at::kCUDA : at::kCPU);
}

TEST(ParseDevice, ListsTheChoicesForAnotherName) {
  for (const char* name : {"", "gpu", "CPU", "cuda:0", "mps"})
    EXPECT_EQ(device_error(name), "--device " + std::string(name) + ": choose auto, cpu or cuda");
}

TEST(ParseDevice, SaysSoWhenThereIsNoCuda) {
  if (at::hasCUDA()) GTEST_SKIP() << "there is a CUDA device here";
  EXPECT_EQ(device_error("cuda"), "--device cuda: this libtorch sees no CUDA device; use --device cpu");
}

TEST(MemoryUse, SeesWhatWasTakenEvenAfterItWasGivenBack) {
  constexpr size_t kBytes = 64u << 20;
  const auto before = memory_use();
  EXPECT_GT(before.peak_anonymous, 0);
  EXPECT_GE(before.peak_resident, before.peak_anonymous);
  {
    std::vector<char> block(kBytes);
    std::memset(block.data(), 1, block.size());
    EXPECT_GE(memory_use().peak_anonymous, static_cast<int64_t>(kBytes));
  }
  EXPECT_GE(memory_use().peak_anonymous, static_cast<int64_t>(kBytes));
}

TEST(Interrupts, DoNothingUntilOneComes) { EXPECT_NO_THROW(check_interrupt()); }

// In processes of their own, since the flag stays set.
TEST(InterruptsDeathTest, TheFirstOneUnwindsAtTheNextCheck) {
  for (const int signal : {SIGINT, SIGTERM})
    EXPECT_EXIT(
        {
          catch_interrupts();
          std::raise(signal);
          try {
            check_interrupt();
          } catch (const Interrupted&) {
            std::_Exit(7);
          }
        },
        ::testing::ExitedWithCode(7), "");
}

TEST(InterruptsDeathTest, TheSecondOneEndsTheProcess) {
  EXPECT_EXIT(
      {
        catch_interrupts();
        std::raise(SIGINT);
        std::raise(SIGINT);
      },
      ::testing::ExitedWithCode(128 + SIGINT), "");
}

}  // namespace
}  // namespace visq
