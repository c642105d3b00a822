// Run with `node --test tests/edge/js/`.
import assert from "node:assert/strict";
import { test } from "node:test";

import { parseInline } from "../../../server/tokenwire_edge/static/inline.js";
import { MarkdownParser } from "../../../server/tokenwire_edge/static/markdown.js";

const DOCUMENT = `# A *title* #

First paragraph with **bold**, _emphasis_, \`code\` and [a link](https://example.com/a_(b)).
It goes on https://example.com/x.

- one
  - nested **item**
    with a second line
- two

  a paragraph of the item
  \`\`\`python
  print("hi")

  # not a heading
  \`\`\`
3. three
4. four
> quoted
lazily continued
> - in a list
***
| name | price |
| --- | ---: |
| a | 1 |
| b \`x\` | 2 |
text after a table
~~~
unclosed *code*
`;

/** Return a block without what only the parser and the view need, and adjacent leaves of one kind joined. */
function plain(node) {
  if (node.text !== undefined) {
    return { [node.type]: node.text, ...(node.seams.length && { seams: [...node.seams] }) };
  }
  const { type, level, info, first, isOrdered } = node;
  return { type, level, info, first, isOrdered, children: node.children.map(plain) };
}

function parsed(text) {
  const parser = new MarkdownParser();
  parser.append(text);
  parser.finish();
  return plain(parser.root);
}

function textOf(node) {
  if (node.text !== undefined) return node.text;
  return node.children.map(textOf).join("");
}

function inlineText(nodes) {
  return nodes
    .map((node) => node.text ?? (node.children ? inlineText(node.children) : node.type === "break" ? "\n" : ""))
    .join("");
}

function outline(node) {
  if (node.text !== undefined) return node.text;
  return [node.type, ...node.children.map(outline)];
}

function blocks(text) {
  const parser = new MarkdownParser();
  parser.append(text);
  parser.finish();
  return outline(parser.root).slice(1);
}

test("blocks are what CommonMark says", () => {
  assert.deepEqual(blocks("# A\ntext\n## B ##\n"), [
    ["heading", "A"],
    ["paragraph", "text"],
    ["heading", "B"],
  ]);
  assert.deepEqual(blocks("- a\n  - b\n- c\n\nd"), [
    ["list", ["item", ["paragraph", "a"], ["list", ["item", ["paragraph", "b"]]]], ["item", ["paragraph", "c"]]],
    ["paragraph", "d"],
  ]);
  assert.deepEqual(blocks("> a\n> ```\n> # x\n> ```\nb"), [
    ["quote", ["paragraph", "a"], ["code", "# x"]],
    ["paragraph", "b"],
  ]);
  assert.deepEqual(blocks("In\n1986. a year\n---\nb"), [
    ["paragraph", "In\n1986. a year"],
    ["rule"],
    ["paragraph", "b"],
  ]);
  assert.deepEqual(blocks("|a|b|\n|-|-|\n|1|2|\n\nc"), [
    ["table", ["row", ["th", "a"], ["th", "b"]], ["row", ["td", "1"], ["td", "2"]]],
    ["paragraph", "c"],
  ]);
  assert.deepEqual(blocks("```js\na\n\n  b\n```"), [["code", "a", "", "  b"]]);
});

test("inline marks nest, and marks without a counterpart are text", () => {
  const text = (text) => ({ type: "text", text });
  assert.deepEqual(parseInline("a **b *c* d** e"), [
    text("a "),
    { type: "strong", children: [text("b "), { type: "em", children: [text("c")] }, text(" d")] },
    text(" e"),
  ]);
  assert.deepEqual(parseInline("***a*** ~~b~~ ``c ` d``"), [
    { type: "strong", children: [{ type: "em", children: [text("a")] }] },
    text(" "),
    { type: "del", children: [text("b")] },
    text(" "),
    { type: "code", text: "c ` d" },
  ]);
  for (const literal of ["2 * 3 * 4", "snake_case_name", "**open", "`open", "[open", "a ] b", "<b>x</b>", "* _"]) {
    assert.deepEqual(parseInline(literal), [text(literal)]);
  }
  assert.deepEqual(parseInline("\\*a\\* \\` ``"), [text("*a* ` ``")]);
  assert.deepEqual(parseInline("**half", { isOpen: true }), [{ type: "strong", children: [text("half")] }]);
  assert.deepEqual(parseInline("see [the page](https://exa", { isOpen: true }), [text("see the page")]);
});

test("only http and https become links", () => {
  for (const address of ["javascript:alert(1)", "data:text/html,x", "/v1/usage", "//host/x", "vbscript:x", "ftp://h", "https://bank.example@h/"]) {
    for (const source of [`[a](${address})`, `![a](${address})`, `<${address}>`, address]) {
      assert.ok(!JSON.stringify(parseInline(source)).includes('"link"'), source);
    }
  }
  assert.equal(parseInline("[a](HTTPS://example.com)")[0].href, "https://example.com/");
  assert.equal(parseInline("<https://example.com/b>")[0].href, "https://example.com/b");
  const [, link, end] = parseInline("(https://example.com/c).");
  assert.deepEqual([link.href, end.text], ["https://example.com/c", ")."]);
});

test("text that comes character by character is parsed as the whole text is, with previews or without", () => {
  const whole = parsed(DOCUMENT);
  const parser = new MarkdownParser();
  for (const [index, character] of [...DOCUMENT].entries()) {
    parser.append(character);
    parser.preview();
    if (index % 7 === 0) parser.preview();
    const { root } = parser;
    const prefix = new MarkdownParser();
    prefix.append(DOCUMENT.slice(0, index + 1));
    prefix.finish();
    assert.deepEqual(plain(root), plain(prefix.root), `after ${index + 1} characters`);
  }
  parser.finish();
  assert.deepEqual(plain(parser.root), whole);
});

test("what a view drew before stays right: only the end of the tree changes", () => {
  // The same rule as in the view: children before `stable - 1` are not looked at again.
  function synchronize(node, shown) {
    const from = Math.max(0, Math.min(node.stable, node.children.length) - 1);
    shown.length = Math.min(shown.length, node.children.length);
    node.children.slice(from).forEach((child, offset) => {
      const place = from + offset;
      if (shown[place]?.node !== child) shown[place] = { node: child, children: [] };
      if (child.children) synchronize(child, shown[place].children);
      else shown[place].text = child.text;
    });
    node.stable = node.children.length;
  }
  const textShown = (shown) => shown.map((each) => each.text ?? textShown(each.children)).join("|");
  const textIn = (node) => node.children.map((each) => each.text ?? textIn(each)).join("|");
  for (const step of [1, 2, 5, 17]) {
    const parser = new MarkdownParser();
    const shown = [];
    for (let at = 0; at < DOCUMENT.length; at += step) {
      parser.append(DOCUMENT.slice(at, at + step));
      parser.preview();
      synchronize(parser.root, shown);
      assert.equal(textShown(shown), textIn(parser.root));
    }
  }
});

test("a seam keeps its place, and does not change the text around it", () => {
  for (let at = 0; at <= DOCUMENT.length; at += 1) {
    const parser = new MarkdownParser();
    parser.append(DOCUMENT.slice(0, at));
    parser.preview();
    parser.markSeam();
    parser.preview();
    parser.append(DOCUMENT.slice(at));
    parser.finish();
    const withoutSeams = JSON.stringify(plain(parser.root)).replaceAll(/,"seams":\[[\d,]*\]/g, "");
    assert.equal(withoutSeams, JSON.stringify(parsed(DOCUMENT)), `seam at ${at}`);
  }
  const nodes = parseInline("ab **cd** ef", { seams: [1, 5, 9] });
  assert.equal(inlineText(nodes), "ab cd ef");
  assert.equal(JSON.stringify(nodes).split('"seam"').length - 1, 3);
});

test("hostile text takes linear time, whole or in pieces", () => {
  const size = 40_000;
  const hostile = [
    "*", "**a ", "_a", "`", "`a``", "[", "[a](", "![", "](", "[a](https://x", "<https://", "https://", "~~", "\\",
    "\n", " ", "\t", "> ", "- ", "1. ", "> - ", "|", "|-", "```\n", "``` `", "#", "a", "a\n", "|a|\n|-|\n", "\ud83d\ude00", '](a "',
    "***a** b* ",
  ];
  const time = (text) => {
    const began = process.cpuUsage();
    const parser = new MarkdownParser();
    for (let at = 0; at < text.length; at += 50) {
      parser.append(text.slice(at, at + 50));
      parser.preview();
      let last = parser.root;
      while (last?.children) last = last.children.at(-1);
      if (last?.type === "inline") parseInline(last.text, { isOpen: true, seams: last.seams });
      assert.ok(!last || last.text.length < 9_000);
    }
    parser.finish();
    const { user, system } = process.cpuUsage(began);
    return (user + system) / 1000;
  };
  for (const unit of hostile) {
    const milliseconds = time(unit.repeat(size / unit.length));
    assert.ok(milliseconds < 5_000, `${JSON.stringify(unit)}: ${milliseconds} ms`);
  }
});

test("lines and paragraphs of any length are cut into leaves of bounded size that lose nothing", () => {
  for (const text of ["x".repeat(30_000), `${"word ".repeat(20)}\n`.repeat(300), `> - ${"\u{1f600}".repeat(9_000)}`]) {
    const parser = new MarkdownParser();
    for (let at = 0; at < text.length; at += 777) parser.append(text.slice(at, at + 777));
    parser.finish();
    assert.deepEqual(plain(parser.root), parsed(text));
    const shown = textOf(parser.root).replaceAll(/\s/g, "");
    assert.equal(shown, text.replace("> - ", "").replaceAll(/\s/g, ""));
  }
});
