import chromium from "@sparticuz/chromium";

console.log(JSON.stringify(await chromium.executablePath()));
