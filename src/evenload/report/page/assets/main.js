// Draw all, and again when the colours change.
function drawAll() {
  const t = theme();
  drawSwatches(t);
  return Promise.all([drawTradeoff, drawBalance, drawMoving, drawLoads, drawHot].map((figure) => figure(t)));
}

prepareLoads();
prepareHot();
drawAll().then(() => { document.documentElement.dataset.drawn = "yes"; });
darkMode.addEventListener("change", drawAll);
