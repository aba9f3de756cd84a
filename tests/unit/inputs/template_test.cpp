#include "visq/inputs/template.h"

#include <thread>

#include "support.h"

namespace visq {
namespace {

using namespace test;

const Json kMessages = Json::parse(R"([
  {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is it? "}]},
  {"role": "assistant", "content": "A cat."}])");

std::string render(const std::string& source, const Json& variables = Json::object()) {
  return ChatTemplate::parse(source, "chat_template.jinja", variables).render(kMessages);
}

std::string error_of_template(const std::string& source) {
  return error_of([&] { render(source); });
}

TEST(ChatTemplate, RendersMessagesWithImages) {
  const std::string source =
      "{% for message in messages %}{{ message['role']|upper }}:"
      "{% if message['content'] is string %}{{ message.content }}{% else %}"
      "{% for part in message['content'] %}{{ '<image>' if part.type == 'image' else part['text']|trim }}"
      "{% endfor %}{% endif %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}";
  const auto chat = ChatTemplate::parse(source, "t", {{"eos_token", "</s>"}});
  EXPECT_EQ(chat.render(kMessages), "USER:<image>What is it?</s>ASSISTANT:A cat.</s>ASSISTANT:");
  EXPECT_EQ(chat.render(kMessages, false), "USER:<image>What is it?</s>ASSISTANT:A cat.</s>");
}

TEST(ChatTemplate, BlockTagsTakeTheirLineAndOneNewline) {
  EXPECT_EQ(render("a\n  {% if true %}\n  b\n  {% endif %}\nc\n"), "a\n  b\nc");
  EXPECT_EQ(render("a\n  {%+ if true %}\nb{% endif +%}\nc"), "a\n  b\nc");
  EXPECT_EQ(render("{% if true %}  \nb{% endif %}"), "  \nb");
  EXPECT_EQ(render("a \n {{- ' b ' -}} \n c"), "a b c");
  EXPECT_EQ(render("  {{ 1 }}\n{# note #}\n  {#- note -#}  2\n\n"), "  1\n2\n");
  EXPECT_EQ(render("{% raw %}{{ x }}{% endraw %}"), "{{ x }}");
}

TEST(ChatTemplate, ValuesPrintAsInPython) {
  EXPECT_EQ(render("{{ 7/2 }} {{ -7//2 }} {{ -7 % 3 }} {{ 2**3**2 }}"), "3.5 -4 2 64");
  EXPECT_EQ(render("{{ 'a' ~ none ~ true ~ 1.0 }} {{ [1, 'a', none, (1,)] }} {{ {'k': \"it's\"} }}"),
            "aNoneTrue1.0 [1, 'a', None, (1,)] {'k': \"it's\"}");
  EXPECT_EQ(render("{{ 1e16 }} {{ 0.1 }} {{ 1e-5 }} {{ 100000.0 }} {{ -0.0 }}"),
            "1e+16 0.1 1e-05 100000.0 -0.0");
  EXPECT_EQ(render("{{ 1 == 1.0 }} {{ '1' == 1 }} {{ 1 < 2 < 2 }} {{ nope }}{{ 1 if false }}"),
            "True False False ");
}

TEST(ChatTemplate, NamesOfALoopEndWithItUnlessInANamespace) {
  EXPECT_EQ(render("{% set x = 1 %}{% set ns = namespace(y=1) %}"
                   "{% for i in [2, 3] %}{% set x = i %}{% set ns.y = i %}{% endfor %}{{ x }}{{ ns.y }}"),
            "13");
}

TEST(ChatTemplate, LoopsKnowWhereTheyAre) {
  EXPECT_EQ(render("{% for i in 'abcd' if i != 'b' %}{{ loop.index }}{{ i }}{{ loop.previtem }}"
                   "{% if not loop.last %},{% endif %}{% else %}none{% endfor %}"),
            "1a,2ca,3dc");
  EXPECT_EQ(render("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
                   "{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"),
            "02");
  EXPECT_EQ(render("{% for i in [1, [2, [3]]] recursive %}{{ i if i is number else loop(i) }}{% endfor %}"),
            "123");
}

TEST(ChatTemplate, MacrosHaveDefaultsAndCallEachOther) {
  EXPECT_EQ(
      render(
          "{% macro f(n, mark='.') %}{{ mark }}{% if n > 0 %}{{ f(n - 1, mark=n) }}{% endif %}{% endmacro %}"
          "{{ f(2) }}"),
      ".21");
  EXPECT_EQ(
      render("{% macro box() %}[{{ caller(1) }}]{% endmacro %}{% call(x) box() %}{{ x + 1 }}{% endcall %}"),
      "[2]");
}

TEST(ChatTemplate, JsonIsWrittenAsTransformersDoes) {
  EXPECT_EQ(render("{{ {'a': [1, 2.0, none], 'b': '<é\"'} | tojson }}"),
            R"({"a": [1, 2.0, null], "b": "<é\""})");
  EXPECT_EQ(render("{{ [1, {}] | tojson(indent=2) }}"), "[\n  1,\n  {}\n]");
}

TEST(ChatTemplate, MessagesCarryTheirReasoningUnderEveryNameAndNoNulls) {
  const auto chat = ChatTemplate::parse(
      "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}{{ messages[0].name is defined }}", "t",
      {});
  EXPECT_EQ(chat.render(Json::parse(R"([{"role": "assistant", "reasoning": "so", "name": null}])")),
            "sosoFalse");
}

TEST(ChatTemplate, ErrorsNameFileLineAndCause) {
  EXPECT_EQ(error_of_template("\n{{ raise_exception('No\\nimages') }}"),
            "chat_template.jinja:2: the template refuses the conversation: No images");
  EXPECT_TRUE(
      mentions(error_of_template("\n\n{{ 1|frobnicate }}"), {"chat_template.jinja:3", "'frobnicate'"}));
  EXPECT_TRUE(
      mentions(error_of_template("{{ 1 is frobnicate }}"), {"chat_template.jinja:1", "'frobnicate'"}));
  EXPECT_TRUE(mentions(error_of_template("\n{% include 'x' %}"), {"chat_template.jinja:2", "'include'"}));
  EXPECT_TRUE(
      mentions(error_of_template("\n{{ frobnicate(1) }}"), {"chat_template.jinja:2", "'frobnicate'"}));
  EXPECT_TRUE(mentions(error_of_template("{{ nope.x }}"), {"chat_template.jinja:1", "'nope' is undefined"}));
  EXPECT_TRUE(mentions(error_of_template("{{ [].append(1) }}"), {"'append'"}));
  EXPECT_TRUE(mentions(error_of_template("{{ range }}"), {"cannot be printed"}));
}

TEST(ChatTemplate, MalformedTemplatesAreRefused) {
  for (const char* source : {"{% if x %}",
                             "{{ x",
                             "{{ x }",
                             "{# x",
                             "{% endif %}",
                             "{% for x %}{% endfor %}",
                             "{{ 'x }}",
                             "{{ (1 }}",
                             "{{ 1 1 }}",
                             "{{ ! }}",
                             "{% set 1 = 2 %}",
                             "{% raw %}",
                             "{{ '\\x' }}",
                             "{{ x[1:2:3:4] }}",
                             "{% break %}",
                             "{{ f(a=1, 2) }}",
                             "{% macro f(a=1, b) %}{% endmacro %}",
                             "{{ }}",
                             "{% %}",
                             "{{ 99999999999999999999 }}"})
    EXPECT_TRUE(mentions(error_of_template(source), {"chat_template.jinja:1"})) << source;
  EXPECT_TRUE(mentions(error_of_template("\xFF"), {"UTF-8"}));
}

TEST(ChatTemplate, EveryTemplateEnds) {
  const std::string doubling = "{% set ns = namespace(x='0123456789') %}{% for i in range(60) %}";
  for (const std::string& source :
       {std::string("{{ 'x' * 1000000000 }}"),
        std::string("{{ [0] * 1000000000 }}"),
        doubling + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
        doubling + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        doubling + "{% set ns.x = ns.x|replace('0', ns.x) %}{% endfor %}",
        doubling + "{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}",
        doubling + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        std::string("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        std::string("{% for a in range(999999) %}{% endfor %}"),
        std::string("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}"),
        std::string("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        std::string("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
        std::string(
            "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}"),
        std::string("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}"),
        std::string("{{ '%1000000000d' % 1 }}"),
        std::string("{{ '{:>1000000000}'.format(1) }}"),
        std::string("{{ 'x'.center(1000000000) }}"),
        std::string("{{ 'x'|indent(1000000000, true) }}"),
        std::string("{{ [1]|tojson(indent=1000000000) }}"),
        std::string("{{ 2 ** 9999999999 }}"),
        std::string("{{ '' .join(['x' * 9000000, 'x' * 9000000]) }}")})
    EXPECT_TRUE(mentions(error_of_template(source), {"chat_template.jinja:1"})) << source;
}

TEST(ChatTemplate, DeepNestingIsRefusedBeforeTheStackEnds) {
  const auto repeat = [](std::string_view text) {
    std::string out;
    for (int i = 0; i < 20'000; ++i) out += text;
    return out;
  };
  for (const std::string& expression :
       {repeat("(") + repeat(")"), repeat("[") + repeat("]"), repeat("{1:") + repeat("}"),
        repeat("f(") + repeat(")"), repeat("x[") + repeat("]"), repeat("not ") + "1", repeat("- ") + "1",
        "x" + repeat(".a"), "x" + repeat("|list"), "1" + repeat(" + 1"), "1" + repeat(" if 1 else 1")})
    EXPECT_TRUE(mentions(error_of_template("{{ " + expression + " }}"), {"deep"}))
        << expression.substr(0, 20);
  EXPECT_TRUE(mentions(error_of_template(repeat("{% if 1 %}")), {"deep"}));
  EXPECT_TRUE(mentions(error_of_template("{% set " + repeat("(") + repeat(")") + " = 1 %}"), {"deep"}));
}

TEST(ChatTemplate, ALoopDoesNotKeepWhatItHoldsAlive) {
  // Leaks would show in the sanitizers' build: each of these values refers to itself.
  EXPECT_EQ(
      render("{% set ns = namespace() %}{% for i in [1, 2] %}{{ loop.changed(loop) }}{% set ns.l = loop %}"
             "{% macro m() %}{{ m }}{% endmacro %}{% set ns.m = m %}{% endfor %}{{ ns.l.index }}{{ "
             "ns.l.previtem }}"),
      "TrueFalse2");
}

TEST(ChatTemplate, RendersFromSeveralThreads) {
  const auto chat = ChatTemplate::parse(
      "{% set ns = namespace(n=0) %}{% for i in range(1000) %}"
      "{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
      "t", Json::object());
  std::vector<std::string> texts(4);
  {
    std::vector<std::jthread> threads;
    for (std::string& text : texts) threads.emplace_back([&] { text = chat.render(kMessages); });
  }
  for (const std::string& text : texts) EXPECT_EQ(text, "499500");
}

TEST(ChatTemplate, FilesCountInTheReferencesOrder) {
  const TempDir dir;
  EXPECT_FALSE(ChatTemplate::load(dir.path()).has_value());
  dir.write(
      "tokenizer_config.json",
      R"({"bos_token": {"content": "<s>"}, "add_bos_token": true, "image_token": "<image>",)"
      R"("chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "config"}]})");
  dir.write("special_tokens_map.json", R"({"bos_token": "<old>", "eos_token": "</s>"})");
  EXPECT_EQ(ChatTemplate::load(dir.path())->render(kMessages), "config");
  dir.write("chat_template.json", R"({"chat_template": "json"})");
  EXPECT_EQ(ChatTemplate::load(dir.path())->render(kMessages), "json");
  dir.write("chat_template.jinja", "{{ bos_token }}{{ eos_token }}{{ image_token }}{{ add_bos_token }}\n");
  EXPECT_EQ(ChatTemplate::load(dir.path())->render(kMessages), "<s></s><image>");
}

TEST(ChatTemplate, MalformedFilesAreNamed) {
  const TempDir dir;
  dir.write("tokenizer_config.json", R"({"chat_template": 1})");
  EXPECT_TRUE(mentions(error_of([&] { ChatTemplate::load(dir.path()); }),
                       {"tokenizer_config.json", "chat_template"}));
  dir.write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "x"}]})");
  EXPECT_TRUE(
      mentions(error_of([&] { ChatTemplate::load(dir.path()); }), {"tokenizer_config.json", "'default'"}));
  dir.write("chat_template.jinja", "\n{% if %}");
  EXPECT_TRUE(mentions(error_of([&] { ChatTemplate::load(dir.path()); }), {"chat_template.jinja:2"}));
}

}  // namespace
}  // namespace visq
