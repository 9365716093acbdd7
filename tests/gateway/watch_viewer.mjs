// Drives the viewer in headless Chromium: study list, one study as stack, with VOLUME also as planes and in 3-D;
// prints what it saw as JSON.
// node watch_viewer.mjs PLAYWRIGHT CHROMIUM URL PATIENT STUDY_UID FOLDER
import { createRequire } from "node:module";
const [, , playwright, chromium, url, patient, study, folder] = process.argv;
const { chromium: browserType } = createRequire(import.meta.url)(playwright);
const browser = await browserType.launch({
  executablePath: chromium,
  args: ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"],
});
const patience = Number(process.env.PATIENCE_MS || 90_000), seen = { failed: [], errors: [], asked: [] };
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
try {
  page.on("response", answer => answer.status() >= 400 && seen.failed.push(`${answer.status()} ${answer.url()}`));
  page.on("request", request => request.url().startsWith(url) || /^(data|blob):/.test(request.url()) || seen.failed.push(`elsewhere: ${request.url()}`));
  page.on("request", request => request.url().includes("/dicom-web/") && seen.asked.length < 20 && seen.asked.push(request.url().slice(url.length)));
  page.on("pageerror", error => seen.errors.push(error.message));
  await page.goto(url, { timeout: patience });
  const row = page.getByText(patient, { exact: false }).first();
  await row.waitFor({ timeout: patience });
  seen.row = await row.textContent();
  await page.screenshot({ path: `${folder}/list.png` });
  await page.goto(`${url}/viewer?StudyInstanceUIDs=${study}`, { timeout: patience });
  const began = Date.now();
  await page.locator("canvas").first().waitFor({ timeout: patience });
  // of each canvas of a viewport, the largest first: how many colours it shows, and which part of it is not black;
  // a black or a plain one has no image
  const canvases = () => page.evaluate(() => [...document.querySelectorAll("canvas")]
    .filter(canvas => canvas.offsetWidth > 200 && canvas.offsetHeight > 200)
    .sort((a, b) => b.width * b.height - a.width * a.height)
    .map(canvas => {
      const copy = document.createElement("canvas");
      copy.width = canvas.width; copy.height = canvas.height;
      const context = copy.getContext("2d");
      context.drawImage(canvas, 0, 0);
      const pixels = new Uint32Array(context.getImageData(0, 0, copy.width, copy.height).data.buffer);
      return [new Set(pixels).size, pixels.filter(pixel => pixel & 0xffffff).length / pixels.length];
    }));
  const shown = async (count, colours) => {
    const until = Date.now() + patience;
    for (;;) {
      const found = await canvases();
      const ready = found.filter(one => one[0] >= colours).length >= count;
      if (ready || Date.now() > until) return found;
      await page.waitForTimeout(500);
    }
  };
  seen.greys = (await shown(1, 32))[0]?.[0] ?? 0;
  seen.milliseconds = Date.now() - began;
  // on to the middle of the stack
  await page.locator("canvas").first().click({ position: { x: 300, y: 300 } });
  for (let step = 0; step < Number(process.env.STEPS || 0); step++) await page.keyboard.press("ArrowDown");
  if (process.env.STEPS) await page.waitForTimeout(3000);
  await page.screenshot({ path: `${folder}/viewer.png` });
  if (process.env.VOLUME) {
    await page.goto(`${url}/viewer?StudyInstanceUIDs=${study}&hangingprotocolId=mprAnd3DVolumeViewport`, { timeout: patience });
    seen.volume = await shown(4, 24);
    await page.waitForTimeout(2000);
    seen.volume = await canvases();
    await page.screenshot({ path: `${folder}/volume.png` });
  }
  // the plain page, which needs no viewer
  await page.goto(`${url}/simple`, { timeout: patience });
  const thumbnail = page.locator(".series img").first();
  await thumbnail.waitFor({ timeout: patience });
  await page.locator(".series").first().click();
  await page.waitForFunction(() => document.getElementById("picture").naturalWidth > 0, null, { timeout: patience });
  seen.plain = await page.evaluate(() => [document.getElementById("number").textContent,
    document.getElementById("picture").naturalWidth, document.querySelector(".series img").naturalWidth]);
  await page.screenshot({ path: `${folder}/plain.png` });
} catch (error) {
  seen.errors.push(String(error));
  await page.screenshot({ path: `${folder}/failed.png` });
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
