// Shows a study in OHIF's layouts of volumes, in headless Chromium; prints what it saw as JSON.
// node watch_volumes.mjs PLAYWRIGHT CHROMIUM URL STUDY_UID N_SLICES FOLDER PROTOCOL...
// Of each layout a picture is written, PROTOCOL.png, and told is where its viewports are in that.
import { createRequire } from "node:module";
const [, , playwright, chromium, url, study, slices, folder, ...protocols] = process.argv;
const { chromium: browserType } = createRequire(import.meta.url)(playwright);
const browser = await browserType.launch({
  executablePath: chromium,
  args: ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"],
});
const timeout = Number(process.env.PATIENCE_MS || 180_000), seen = { failed: [], errors: [], layouts: {}, milliseconds: {} };
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
let frames = 0;
// a canvas of WebGL keeps nothing to read once it was shown: only pictures of the page have its pixels
const picture = path => page.screenshot({ path, timeout });
try {
  page.on("response", answer => answer.status() >= 400 && seen.failed.push(`${answer.status()} ${answer.url()}`));
  page.on("request", request => request.url().startsWith(url) || /^(data|blob):/.test(request.url()) || seen.failed.push(`elsewhere: ${request.url()}`));
  page.on("requestfinished", request => { frames += /\/frames\/\d+$/.test(request.url()); });
  page.on("pageerror", error => seen.errors.push(error.message));
  for (const protocol of protocols) {
    const began = Date.now(), late = () => Date.now() - began > timeout;
    frames = 0;
    await page.goto(`${url}/viewer?StudyInstanceUIDs=${study}&hangingprotocolId=${protocol}`, { timeout });
    await page.locator(".cornerstone-canvas:visible").first().waitFor({ timeout });
    while (frames < slices && !late()) await page.waitForTimeout(100);
    // all is here: drawn it is when pictures a second apart are the same three times
    const last = [];
    do {
      last.unshift((await picture()).toString("base64"));
      await page.waitForTimeout(1000);
    } while (!(last.length > 2 && last[0] === last[1] && last[0] === last[2]) && !late());
    if (late()) throw new Error(`${protocol}: ${frames} of ${slices} frames, or still drawing, after ${timeout} ms`);
    seen.milliseconds[protocol] = Date.now() - began;
    await picture(`${folder}/${protocol}.png`);
    seen.layouts[protocol] = await page.locator(".viewport-element:visible").evaluateAll(all => all.map(one => {
      const box = one.getBoundingClientRect();
      return [box.left, box.top, box.right, box.bottom].map(Math.round);
    }));
  }
} catch (error) {
  seen.errors.push(String(error));
  await picture(`${folder}/failed.png`);
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
