// Prints what the dashboard makes of sentences of the service, and the sentences that it knows.
const [module, sentences, given] = process.argv.slice(-3);
const { chinese } = await import(module);
const { SENTENCES, CODES } = await import(sentences);
console.log(JSON.stringify({ said: JSON.parse(given).map(chinese), known: Object.keys(SENTENCES), all: SENTENCES, codes: CODES }));
