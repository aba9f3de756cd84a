#include <ctime>
#include <map>

#include "visq/inputs/template_runtime.h"
#include "visq/inputs/template_text.h"

namespace visq::jinja {

void set_attribute(Namespace& names, const std::string& name, Value value) {
  if (name.starts_with('_')) fail("a namespace cannot have the attribute '{}'", name);
  for (auto& [known, slot] : names.attributes)
    if (known == name) {
      slot = std::move(value);
      return;
    }
  names.attributes.emplace_back(name, std::move(value));
}

namespace {

/// What dict() and namespace() make of their arguments.
Value dict_of(Runtime& runtime, Arguments& arguments) {
  if (arguments.positional.size() > 1) fail("dict() takes at most one argument without a name");
  std::vector<std::pair<Value, Value>> entries;
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (const Dict* dict = source.dict()) {
      entries = dict->entries;
    } else {
      for (const Value& pair : iterate(runtime, source)) {
        const std::vector<Value> parts = iterate(runtime, pair);
        if (parts.size() != 2) fail("dict() needs pairs, not {} values", parts.size());
        entries.emplace_back(parts[0], parts[1]);
      }
    }
  }
  for (auto& [name, value] : arguments.keywords) entries.emplace_back(runtime.text(name), std::move(value));
  return runtime.dict(std::move(entries));
}

Value make_namespace(Runtime& runtime, Arguments& arguments) {
  const Value attributes = dict_of(runtime, arguments);
  Namespace& names = runtime.new_namespace();
  for (const auto& [name, value] : attributes.dict()->entries) {
    if (!name.text()) fail("the name of an attribute is a text, not '{}'", type_name(name));
    set_attribute(names, *name.text(), value);
  }
  return Value(&names);
}

Value make_range(Runtime& runtime, Arguments& arguments) {
  static constexpr int64_t kMaxItems = 100'000, kMaxBound = int64_t{1} << 52;
  const Parameters parameters("range", arguments, {"start", "stop", "step"}, 1);
  const bool one = parameters[1] == nullptr;
  Sequence range{.flavor = Sequence::Flavor::range};
  range.start = one ? 0 : parameters.integer(0, 0);
  range.stop = parameters.integer(one ? 0 : 1, 0);
  range.step = parameters.integer(2, 1);
  if (!arguments.keywords.empty()) fail("range() takes no named arguments");
  if (range.step == 0) fail("range() with a step of zero");
  for (const int64_t bound : {range.start, range.stop, range.step})
    if (bound > kMaxBound || bound < -kMaxBound) fail("range() beyond 2^52");
  for (int64_t i = range.start; range.step > 0 ? i < range.stop : i > range.stop; i += range.step) {
    if (range.items.size() == kMaxItems) fail("range() of more than {} numbers", kMaxItems);
    range.items.emplace_back(i);
  }
  return runtime.sequence(std::move(range));
}

Value raise_exception(Runtime& runtime, Arguments& arguments) {
  const Parameters parameters("raise_exception", arguments, {"message"}, 1);
  std::string message = to_text(runtime, *parameters[0]);
  for (char& c : message)
    if (c == '\n' || c == '\r') c = ' ';  // an error is one line
  fail("the template refuses the conversation: {}", message);
}

Value strftime_now(Runtime& runtime, Arguments& arguments) {
  const std::string form = Parameters("strftime_now", arguments, {"format"}, 1).text(0);
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char buffer[512];
  // The blank tells an empty result from one that does not fit.
  const size_t size = std::strftime(buffer, sizeof(buffer), (form + " ").c_str(), &local);
  if (size == 0) fail("strftime_now() makes a text that is too long");
  return runtime.text(std::string(buffer, size - 1));
}

Value make_joiner(Runtime& runtime, Arguments& arguments) {
  const std::string separator = Parameters("joiner", arguments, {"sep"}).text(0, ", ");
  const auto used = std::make_shared<bool>(false);
  return runtime.object({.name = "joiner", .call = [=](Runtime& r, Arguments&) {
                           return r.text(std::exchange(*used, true) ? separator : "");
                         }});
}

Value make_cycler(Runtime& runtime, Arguments& arguments) {
  if (arguments.positional.empty()) fail("cycler() needs at least one value");
  const Value items = runtime.tuple(arguments.positional);
  const auto position = std::make_shared<size_t>(0);
  const auto current = [=] { return items.sequence()->items[*position]; };
  const auto next = [=](Runtime&, Arguments&) {
    Value value = current();
    *position = (*position + 1) % items.sequence()->items.size();
    return value;
  };
  const auto reset = [=](Runtime&, Arguments&) {
    *position = 0;
    return Value();
  };
  const int depth = depth_of(items) + 1;
  const auto attribute = [=](Runtime& r, std::string_view name) -> std::optional<Value> {
    if (name == "current") return current();
    if (name == "next") return r.object({.name = "next", .call = next, .depth = depth});
    if (name == "reset") return r.object({.name = "reset", .call = reset, .depth = depth});
    return {};
  };
  return runtime.object({.name = "cycler", .attribute = attribute, .depth = depth});
}

}  // namespace

const Value* find_global(std::string_view name) {
  const auto function = [](std::string title, Value (*call)(Runtime&, Arguments&)) {
    return Value(std::make_shared<const Object>(Object{.name = std::move(title), .call = call}));
  };
  static const std::map<std::string_view, Value> functions{
      {"range", function("range", make_range)},
      {"dict", function("dict", dict_of)},
      {"namespace", function("namespace", make_namespace)},
      {"raise_exception", function("raise_exception", raise_exception)},
      {"strftime_now", function("strftime_now", strftime_now)},
      {"joiner", function("joiner", make_joiner)},
      {"cycler", function("cycler", make_cycler)},
  };
  const auto it = functions.find(name);
  return it == functions.end() ? nullptr : &it->second;
}

}  // namespace visq::jinja
