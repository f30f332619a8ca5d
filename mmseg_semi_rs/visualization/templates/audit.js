(function () {
  'use strict';
  var list = document.getElementById('tiles');
  var sort = document.getElementById('sort');
  var show = document.getElementById('show');
  var count = document.getElementById('count');
  var tiles = Array.prototype.slice.call(list.children);
  function number(tile, name) { return Number(tile.getAttribute('data-' + name)); }
  function arrange() {
    var by = sort.value, wanted = show.value, visible = 0;
    tiles.sort(function (a, b) {
      var first = by === 'order' ? 0 : number(b, by) - number(a, by);
      return first || number(a, 'order') - number(b, 'order');
    });
    tiles.forEach(function (tile) {
      tile.hidden = wanted !== 'all' && number(tile, wanted) === 0;
      visible += tile.hidden ? 0 : 1;
      list.appendChild(tile);
    });
    count.textContent = visible + ' of ' + tiles.length + ' shown';
  }
  sort.addEventListener('change', arrange);
  show.addEventListener('change', arrange);
  document.getElementById('controls').hidden = false;
  arrange();
})();
