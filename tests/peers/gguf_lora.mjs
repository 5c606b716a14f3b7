// SPDX-License-Identifier: MIT
// gguf_lora.mjs GOLDEN ADAPTERS: see gguf_lora. One line per model: adapter: cases that agree / cases.
import fs from "node:fs";
import { getLlama } from "node-llama-cpp";

const [golden, adapters] = process.argv.slice(2);
const { cases } = JSON.parse(fs.readFileSync(`${golden}/cases.json`));
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const most = 60; // tokens of a prompt: long ones show nothing new
let wrong = 0, done = 0;

async function continuation(model, ids, n, file) {
  const lora = file && { adapters: [{ filePath: file, scale: 1 }] };
  const context = await model.createContext({ contextSize: 256, threads: 1, flashAttention: false, lora });
  const out = [];
  for await (const token of context.getSequence().evaluate(ids, { temperature: 0 }))
    if (out.push(token) === n) break;
  await context.dispose();
  return out;
}

for (const name of ["llama-gqa", "mistral-headdim", "llama-spm-mha"]) {
  const model = await llama.loadModel({ modelPath: `${golden}/gguf/${name}-F32.gguf` });
  const seen = {};
  for (const c of cases) {
    const file = c.adapter && `${adapters}/${name}.${c.adapter}.gguf`;
    if (c.model !== `models/${name}` || !c.greedy.length || c.ids.length > most || (file && !fs.existsSync(file))) continue;
    const got = await continuation(model, c.ids, c.greedy.length, file);
    const agrees = got.every((token, i) => token === c.greedy[i]); // llama.cpp stops at its end tokens
    if (!agrees) console.log(`${c.name}: ${got}, golden ${c.greedy}`);
    const count = (seen[c.adapter ?? "base"] ??= [0, 0]);
    count[0] += agrees, count[1]++;
    wrong += !agrees, done++;
  }
  console.log(`${name}: ${Object.entries(seen).map(([k, v]) => `${k} ${v[0]}/${v[1]}`).join(", ")}`);
  await model.dispose();
}
process.exit(wrong || done < 30 ? 1 : 0);
