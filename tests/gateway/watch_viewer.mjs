// Drives the viewer in headless Chromium: study list, one study, one canvas; prints what it saw as JSON.
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
  // how many greys the largest canvas shows: a black or a plain one has no image
  const greys = () => page.evaluate(() => {
    const all = [...document.querySelectorAll("canvas")].sort((a, b) => b.width * b.height - a.width * a.height);
    if (!all.length || !all[0].width) return 0;
    const copy = document.createElement("canvas");
    copy.width = all[0].width; copy.height = all[0].height;
    const context = copy.getContext("2d");
    context.drawImage(all[0], 0, 0);
    const pixels = context.getImageData(0, 0, copy.width, copy.height).data, found = new Set();
    for (let i = 0; i < pixels.length; i += 4) found.add(pixels[i]);
    return found.size;
  });
  while ((seen.greys = await greys()) < 32 && Date.now() - began < patience) await page.waitForTimeout(250);
  seen.milliseconds = Date.now() - began;
  // on to the middle of the stack
  await page.locator("canvas").first().click({ position: { x: 300, y: 300 } });
  for (let step = 0; step < Number(process.env.STEPS || 0); step++) await page.keyboard.press("ArrowDown");
  if (process.env.STEPS) await page.waitForTimeout(3000);
  await page.screenshot({ path: `${folder}/viewer.png` });
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
