// Opens a shop's page in headless Chromium. Prints `waiting` and `paid` when the page says so: `shop_page.mjs URL CHROMIUM`. With
// `click` as third argument it presses the page's button, which pays.
import { chromium } from "playwright-core";

const [url, executablePath, how] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
  const page = await browser.newPage();
  page.on("pageerror", error => console.error(String(error)));
  page.setDefaultTimeout(120_000);
  await page.goto(url);
  await page.getByText("waiting for the payment", { exact: true }).waitFor();
  console.log("waiting");
  if (how === "click") await page.getByRole("button").click();
  await page.getByText("paid", { exact: true }).waitFor();
  if (await page.locator("#code").isVisible()) throw new Error("the page still shows the code");
  console.log("paid");
} finally {
  await browser.close();
}
