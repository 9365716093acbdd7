// Times OHIF in headless Chromium from the click on a study to its first image; prints JSON.
// node watch_first_image.mjs PLAYWRIGHT CHROMIUM URL OHIF_FOLDER CONFIG_FILE
// OHIF's own files come from a folder, whatever the server: only /dicom-web is asked of it.
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
const [, , playwright, chromium, url, ohif, config] = process.argv;
const { chromium: browserType } = createRequire(import.meta.url)(playwright);
const browser = await browserType.launch({
  executablePath: chromium,
  args: ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"],
});
const timeout = 120_000;
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  await page.route(address => address.origin === url && !address.pathname.startsWith("/dicom-web"), route => {
    const name = new URL(route.request().url()).pathname.slice(1), file = join(ohif, name);
    if (name === "app-config.js") return route.fulfill({ path: config });
    return route.fulfill({ path: name && existsSync(file) ? file : join(ohif, "index.html") });
  });
  await page.goto(url, { timeout });
  await page.getByText("Bench", { exact: false }).first().click({ timeout });
  const button = page.getByText(/^Basic( Viewer)?$/).first();
  await button.waitFor({ timeout });
  // the page itself looks for grey values, every 20 ms: a black or a plain canvas has no image
  await page.evaluate(() => {
    window.addEventListener("click", () => { window.clickedAt ??= performance.now(); }, { capture: true });
    const copy = document.createElement("canvas");
    copy.width = copy.height = 64;
    const context = copy.getContext("2d", { willReadFrequently: true });
    window.firstImageAt = new Promise(resolve => {
      const look = setInterval(() => {
        for (const canvas of document.querySelectorAll(".viewport-element canvas, .cornerstone-canvas")) {
          if (!canvas.width) continue;
          context.clearRect(0, 0, 64, 64);
          context.drawImage(canvas, 0, 0, 64, 64);
          const found = new Set(context.getImageData(0, 0, 64, 64).data);
          if (found.size < 16) continue;
          clearInterval(look);
          resolve(performance.now());
        }
      }, 20);
    });
  });
  await button.click({ timeout });
  const milliseconds = await page.evaluate(async () => (await window.firstImageAt) - window.clickedAt);
  console.log(JSON.stringify({ milliseconds }));
} finally {
  await browser.close();
}
