// Uploads a file with tus-js-client, as the JSON in the first argument says; prints what came of it.
import fs from "node:fs";
import { PassThrough } from "node:stream";
import tus from "tus-js-client";

const { endpoint, token, file, abortAt, ...options } = JSON.parse(process.argv[2]);
let fileUrl = null;
const say = (upload) => {
  process.stdout.write(JSON.stringify({ url: upload.url, file: fileUrl }));
  process.exit(0);
};
const source = options.uploadLengthDeferred ? fs.createReadStream(file).pipe(new PassThrough()) : fs.readFileSync(file);
const upload = new tus.Upload(source, {
  endpoint,
  headers: { Authorization: `Bearer ${token}` },
  metadata: { filename: "film.bin", filetype: "video/mp4" },
  retryDelays: Array(500).fill(1),
  ...options,
  onAfterResponse: (request, response) => {
    fileUrl = response.getHeader("Parley-File") ?? fileUrl;
  },
  onProgress: (sent) => {
    if (abortAt !== undefined && sent >= abortAt) {
      upload.abort(true).then(() => say(upload));
    }
  },
  onSuccess: () => say(upload),
  onError: (error) => {
    console.error(String(error));
    process.exit(1);
  },
});
upload.start();
