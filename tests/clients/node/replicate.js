// What the JavaScript client does with a farm; run beside its node_modules with the path of a picture.
const fs = require("node:fs");
const http = require("node:http");
const Replicate = require("replicate");
const { parseProgressFromLogs } = require("replicate/lib/util");

const PICTURE = fs.readFileSync(process.argv[2]);
const RIFFUSION = "riffusion/riffusion:8cf61ea6c56afd61d8f5b9ffd14d7c216c0a93844ce2d82ac1c9ecc9c7f24e05";
const CLIP = { prompt: "calm strings", seed: 3, num_inference_steps: 4, formats: ["wav"] };
// A track's input: its frames are this process' own, so that nobody else has rendered them.
const track = (seconds, seed) => ({
  keyframes: [
    { prompt: "calm strings", seed: process.pid },
    { prompt: "loud brass", seed: 1e6 * seed },
  ],
  duration_s: seconds,
  num_inference_steps: 4,
  formats: ["wav"],
});
// Of five frames, longer than the shortest wait; and too long to wait for.
const [TRACK, ANOTHER, LONG] = [track(25.6, 1), track(25.6, 2), track(640, 3)];
const replicate = new Replicate({ baseUrl: process.env.REPLICATE_BASE_URL });

async function head(output) {
  const bytes = Buffer.from(await (await output.blob()).arrayBuffer());
  return ["FileOutput", bytes.subarray(0, 4).toString("latin1"), bytes.length];
}

const scenarios = {
  async run() {
    const output = await replicate.run(RIFFUSION, { input: { prompt_a: "jazz", prompt_b: "techno", alpha: 0.25 } });
    return { audio: await head(output.audio), spectrogram: await head(output.spectrogram) };
  },

  async run_model() {
    const [first, ...others] = await replicate.run("riffarm/clip", { input: CLIP });
    return { first: await head(first), others: others.length };
  },

  async create_wait_get() {
    let prediction = await replicate.predictions.create({ model: "riffarm/track", input: TRACK });
    const seen = { first: prediction.status, logs: [prediction.logs], progress: [] };
    const stop = async (one) => {
      seen.logs.push(one.logs);
      seen.progress.push(parseProgressFromLogs(one).percentage);
      return false;
    };
    prediction = await replicate.wait(prediction, { interval: 50 }, stop);
    const { status, output, input, metrics } = await replicate.predictions.get(prediction.id);
    return { ...seen, last: status, output, input, metrics };
  },

  async wait_runs_out() {
    const made = await replicate.predictions.create({ version: "riffarm/track", input: LONG, wait: 1 });
    const now = await replicate.predictions.get(made.id);
    const canceled = await replicate.predictions.cancel(made.id);
    return { answered: made.status, really: now.status, canceled: canceled.status };
  },

  async run_longer_than_the_wait() {
    const output = await replicate.run("riffarm/track", { input: ANOTHER, wait: { mode: "block", timeout: 1 } });
    return Promise.all(output.map(head));
  },

  async fails() {
    try {
      await replicate.run("riffarm/clip", { input: { ...CLIP, prompt: "it refuses" } });
    } catch (error) {
      return { status: "failed", error: error.message };
    }
  },

  async bad_input() {
    try {
      await replicate.run("riffarm/clip", { input: { promt: "x" } });
    } catch (error) {
      const body = JSON.parse(error.message.slice(error.message.indexOf("{"), error.message.lastIndexOf("}") + 1));
      return { status: error.response.status, title: body.title, detail: body.detail };
    }
  },

  async stream() {
    const events = [];
    for await (const { event, data } of replicate.stream("riffarm/clip", { input: { ...CLIP, seed: 7 } })) {
      events.push([event, event === "output" ? (await head(data))[0] : data]);
    }
    return events;
  },

  async stream_of_a_failure() {
    try {
      for await (const _ of replicate.stream("riffarm/clip", { input: { ...CLIP, prompt: "it refuses" } }));
    } catch (error) {
      return error.message;
    }
  },

  async lists() {
    const made = [];
    for (let i = 0; i < 3; i++) {
      made.push((await replicate.predictions.create({ model: "riffarm/clip", input: CLIP })).id);
    }
    const pages = [];
    const first = async () => (await replicate.request("/predictions?limit=2", {})).json();
    for await (const page of replicate.paginate(first)) {
      pages.push(page.map((one) => one.id));
      if (pages.length === 2) break;
    }
    const listed = await replicate.predictions.list();
    return { made, pages, default: listed.results.length, previous: listed.previous };
  },

  async files() {
    const content = new File([PICTURE], "og_beat.png", { type: "image/png" });
    const made = await replicate.files.create(content, { a: 1 });
    const seen = await replicate.files.get(made.id);
    const ids = async () => (await replicate.files.list()).results.map((one) => one.id);
    const isListed = (await ids()).includes(made.id);
    const [output] = await replicate.run("riffarm/convert", { input: { source: content, formats: ["wav"] } });
    const data = `data:image/png;base64,${PICTURE.toString("base64")}`;
    const inline = await replicate.predictions.create({ model: "riffarm/clip", input: { ...CLIP, seed_image: data } });
    return {
      made: [made.name, made.content_type, made.size],
      same: seen.id === made.id,
      is_listed: isListed,
      converted: await head(output),
      is_same_inline: inline.input.seed_image === made.id,
      deleted: await replicate.files.delete(made.id),
      is_still_listed: (await ids()).includes(made.id),
    };
  },

  async models() {
    const model = await replicate.models.get("riffarm", "clip");
    const versions = await replicate.models.versions.list("riffarm", "clip");
    const version = await replicate.models.versions.get("riffarm", "clip", versions.results[0].id);
    const inputs = version.openapi_schema.components.schemas.Input;
    return {
      name: `${model.owner}/${model.name}`,
      latest: model.latest_version.id === version.id,
      inputs: Object.keys(inputs.properties).sort(),
      required: inputs.required,
      account: (await replicate.accounts.current()).username,
      hardware: (await replicate.hardware.list()).map((one) => one.sku),
    };
  },

  async webhook() {
    const calls = [];
    let isOver;
    const over = new Promise((resolve) => (isOver = resolve));
    const server = http.createServer(async (request, response) => {
      let body = "";
      for await (const piece of request) body += piece;
      calls.push({ headers: request.headers, body });
      response.writeHead(204).end();
      if (["succeeded", "failed", "canceled"].includes(JSON.parse(body).status)) isOver();
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const made = await replicate.predictions.create({
      model: "riffarm/clip",
      input: { ...CLIP, seed: 8 },
      webhook: `http://127.0.0.1:${server.address().port}/hook`,
      webhook_events_filter: ["start", "completed"],
    });
    await over;
    server.close();
    const { key } = await replicate.webhooks.default.secret.get();
    const valid = await Promise.all(calls.map((one) => Replicate.validateWebhook(one, key)));
    const tampered = await Replicate.validateWebhook({ ...calls[0], body: `${calls[0].body} ` }, key);
    const bodies = calls.map((one) => one.body);
    return { id: made.id, bodies, are_valid: valid.every(Boolean), is_tampered_refused: !tampered };
  },
};

async function main() {
  const told = {};
  for (const [name, scenario] of Object.entries(scenarios)) {
    try {
      told[name] = await scenario();
    } catch (error) {
      told[name] = { raised: error.name, text: error.message, trace: error.stack };
    }
  }
  console.log(JSON.stringify(told));
}

main();
