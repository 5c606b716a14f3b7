// SPDX-License-Identifier: MIT
// The official OpenAI client for Node against the daemon at argv[2]: prints one line per check, "ok NAME" or "FAILED NAME: why". Run by test_openai_node.py,
// with the packages openai and zod beside it.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { LengthFinishReasonError } from "openai/error";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const url = process.argv[2];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const hello = [{ role: "system", content: "Be brief" }, { role: "user", content: "Hello" }];
const letters = { guided_regex: "[a-e]{8}" }; // an answer that ends by itself
const Person = z.object({ kind: z.enum(["cat", "dog"]), legs: z.union([z.literal(2), z.literal(4)]) });
const parameters = { type: "object", properties: { city: { enum: ["Paris", "Oslo"] } }, required: ["city"], additionalProperties: false };
const weather = { type: "function", function: { name: "weather", parameters, strict: true } };

async function collect(stream) {
  const all = [];
  for await (const each of stream) all.push(each);
  return all;
}

async function raises(kind, call, check = {}) {
  try {
    await call();
  } catch (e) {
    assert.ok(e instanceof kind, `${e.constructor.name}: ${e.message}`);
    for (const [key, value] of Object.entries(check)) assert.equal(e[key], value, key);
    return;
  }
  assert.fail(`${kind.name} was not raised`);
}

async function nothingRuns() {
  for (let i = 0; i < 500; i++) {
    const text = await (await fetch(`${url}/metrics`)).text();
    if (/^adapterd_requests_running 0$/m.test(text)) return;
    await new Promise((done) => setTimeout(done, 20));
  }
  assert.fail("something still runs");
}

const checks = {
  async models() {
    assert.deepEqual((await collect(await client.models.list())).map((m) => m.id), ["base", "all", "qv"]);
    assert.equal((await client.models.retrieve("qv")).id, "qv");
    await raises(OpenAI.NotFoundError, () => client.models.retrieve("nope"), { code: "model_not_found" });
    await raises(OpenAI.PermissionDeniedError, () => client.models.delete("base"), { code: "base_model" });
  },

  async completions() {
    const body = { model: "qv", prompt: "Hello", max_tokens: 8, temperature: 0 };
    const whole = await client.completions.create({ ...body, logprobs: 2, n: 2 });
    assert.deepEqual(whole.choices.map((c) => c.logprobs.tokens.length), [8, 8]);
    const events = await collect(await client.completions.create({ ...body, stream: true, stream_options: { include_usage: true } }));
    assert.equal(events.map((e) => e.choices[0]?.text ?? "").join(""), whole.choices[0].text);
    assert.equal(events.at(-1).usage.completion_tokens, 8);
    const { data, response, request_id } = await client.completions.create(body, { headers: { "x-request-id": "mine-2" } }).withResponse();
    assert.equal(data.choices[0].text, whole.choices[0].text);
    assert.deepEqual([request_id, response.headers.get("x-adapter-version").length], ["mine-2", 64]);
  },

  async embeddings() {
    const floats = await client.embeddings.create({ model: "qv", input: ["Hello", "Hi"], encoding_format: "float" });
    const packed = await client.embeddings.create({ model: "qv", input: ["Hello", "Hi"] }); // base64 on the wire
    assert.equal(packed.data.length, 2);
    packed.data[1].embedding.forEach((x, i) => assert.ok(Math.abs(x - floats.data[1].embedding[i]) < 1e-6));
    assert.equal((await client.embeddings.create({ model: "base", input: [1, 2, 3], dimensions: 12 })).data[0].embedding.length, 12);
  },

  async chat() {
    const body = { model: "qv", messages: hello, max_completion_tokens: 8, temperature: 0 };
    const whole = await client.chat.completions.create({ ...body, logprobs: true, top_logprobs: 2 });
    assert.equal(whole.choices[0].logprobs.content.length, 8);
    const chunks = await collect(await client.chat.completions.create({ ...body, stream: true }));
    assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), whole.choices[0].message.content);
    assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
  },

  async "chat's streaming helper"() {
    let text = "";
    const stream = client.chat.completions.stream({ model: "qv", messages: hello, temperature: 0, ...letters }).on("content", (delta) => (text += delta));
    const final = await stream.finalChatCompletion();
    assert.match(final.choices[0].message.content, /^[a-e]{8}$/);
    assert.equal(text, final.choices[0].message.content);
    assert.equal(await stream.finalContent(), text);
  },

  async "tools, called and run by the client"() {
    const required = await client.chat.completions.create({ model: "qv", messages: hello, tools: [weather], tool_choice: "required", max_completion_tokens: 60 });
    const [call] = required.choices[0].message.tool_calls;
    assert.ok(["Paris", "Oslo"].includes(JSON.parse(call.function.arguments).city));
    const streamed = client.chat.completions.stream({ model: "qv", messages: hello, tools: [weather], tool_choice: "required", temperature: 0 });
    assert.equal((await streamed.finalFunctionToolCall()).name, "weather");
    const asked = [];
    const run = client.chat.completions.runTools({
      model: "qv", messages: hello, max_completion_tokens: 60, tool_choice: { type: "function", function: { name: "weather" } },
      tools: [{ type: "function", function: { name: "weather", parameters, parse: JSON.parse, function: (given) => (asked.push(given.city), "Rain") } }],
    });
    await run.done();
    assert.equal(asked.length, 1);
  },

  async "structured answers"() {
    const parsed = await client.chat.completions.parse({ model: "qv", messages: hello, response_format: zodResponseFormat(Person, "person"), max_completion_tokens: 60 });
    Person.parse(parsed.choices[0].message.parsed);
    const called = await client.chat.completions.parse({ model: "qv", messages: hello, tools: [zodFunction({ name: "person", parameters: Person })], tool_choice: "required", max_completion_tokens: 60 });
    Person.parse(called.choices[0].message.tool_calls[0].function.parsed_arguments);
    const response = await client.responses.parse({ model: "qv", input: "Hello", text: { format: zodTextFormat(Person, "person") }, max_output_tokens: 60 });
    Person.parse(response.output_parsed);
    await raises(LengthFinishReasonError, () => client.chat.completions.parse({ model: "qv", messages: hello, response_format: zodResponseFormat(Person, "person"), max_completion_tokens: 2 }));
  },

  async responses() {
    const body = { model: "qv", input: "Hello", instructions: "Be brief", max_output_tokens: 8, temperature: 0 };
    const whole = await client.responses.create(body);
    assert.deepEqual([whole.status, whole.incomplete_details.reason, whole.usage.output_tokens], ["incomplete", "max_output_tokens", 8]);
    const events = await collect(await client.responses.create({ ...body, stream: true }));
    assert.equal(events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join(""), whole.output_text);
    assert.equal(events.at(-1).type, "response.incomplete");
    const final = await client.responses.stream({ model: "qv", input: "Hello", tools: [{ type: "function", ...weather.function }], tool_choice: "required", max_output_tokens: 60 }).finalResponse();
    assert.deepEqual([final.output[0].type, final.output[0].name], ["function_call", "weather"]);
    await raises(OpenAI.NotFoundError, () => client.responses.retrieve("resp_1"));
  },

  async "errors by class"() {
    await raises(OpenAI.NotFoundError, () => client.chat.completions.create({ model: "nope", messages: hello, stream: true }), { status: 404, code: "model_not_found", param: "model", type: "invalid_request_error" });
    await raises(OpenAI.BadRequestError, () => client.chat.completions.create({ model: "qv", messages: [] }), { param: "messages" });
    await raises(OpenAI.BadRequestError, () => client.completions.create({ model: "qv", prompt: "x", max_tokens: 100000 }), { code: "context_length_exceeded" });
    await raises(OpenAI.ConflictError, () => client.post("/adapters/qv/rollback"), { code: "adapter_not_stored" });
    const form = new FormData();
    form.append("name", "bad");
    form.append("config", new Blob(["{}"]), "adapter_config.json");
    form.append("weights", new Blob(["x"]), "adapter_model.safetensors");
    await raises(OpenAI.UnprocessableEntityError, () => client.post("/adapters", { body: form }), { code: "adapter_refused" });
  },

  async "whoever leaves or loses patience cancels it"() {
    const long = { model: "base", messages: hello, max_completion_tokens: 400, n: 64, ignore_eos: true };
    const stream = await client.chat.completions.create({ ...long, stream: true });
    for await (const _ of stream) break;
    await nothingRuns();
    const control = new AbortController();
    setTimeout(() => control.abort(), 100);
    await raises(OpenAI.APIUserAbortError, () => client.chat.completions.create(long, { signal: control.signal }));
    await nothingRuns();
    await raises(OpenAI.APIConnectionTimeoutError, () => client.chat.completions.create(long, { timeout: 150 }));
    await nothingRuns();
  },
};

let failed = false;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (e) {
    failed = true;
    console.log(`FAILED ${name}: ${e.stack.replaceAll("\n", " | ")}`);
  }
}
process.exit(failed ? 1 : 0);
