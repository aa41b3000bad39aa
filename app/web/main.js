// The page to try the service: starts its parts.

import { startClassify } from "./classify.js";
import { startLiveFigures } from "./live-figures.js";
import { startInstruct } from "./instruct.js";
import { startKey } from "./key.js";
import { loadModels } from "./models.js";
import { showServed, startTabs } from "./tabs.js";
import { startWrite } from "./write.js";

/** Beside the work where there is room, else folded away. */
function foldSettings() {
  const wide = matchMedia("(min-width: 60rem)");
  const fold = () => {
    for (const box of document.querySelectorAll("details.settings")) box.open = wide.matches;
  };
  wide.addEventListener("change", fold);
  fold();
}

startKey();
startTabs();
startWrite();
startInstruct();
const classify = startClassify();
foldSettings();
startLiveFigures();

const models = await loadModels();
showServed(new Set(models.flatMap((model) => model.tasks)));
const classifier = models.find((model) => model.tasks.includes("classify"));
if (classifier) classify.setModel(classifier);
