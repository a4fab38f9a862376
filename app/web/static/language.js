// A browser without a locale may name a language, "en-US@posix", that Intl refuses: uPlot asks it while
// it loads, and there would be no curve at all.
try {
  new Intl.NumberFormat(navigator.language);
} catch {
  Object.defineProperty(navigator, "language", { value: "en-US" });
  Object.defineProperty(navigator, "languages", { value: ["en-US"] });
}
