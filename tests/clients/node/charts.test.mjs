// Results that are more than text: tables, images, charts (code-interpreter 2.7, 2.8, 2.16).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox } from '@e2b/code-interpreter'
import { plain, shared } from './support.mjs'

const sandbox = await shared({}, Sandbox)

async function results(code) {
  const execution = await sandbox.runCode(code)
  assert.equal(execution.error, undefined, execution.error?.traceback)
  return execution.results
}
const chart = async (code) => plain((await results(`import matplotlib.pyplot as plt\n${code}\nplt.show()`))[0].chart)
const PNG = /^iVBORw0KGgo[A-Za-z0-9+/]+=*$/

test('D31, D8: a figure', async () => {
  const found = await results('import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n"value"')
  assert.deepEqual(found.map((result) => result.isMainResult), [false, true])
  const [figure] = found
  assert.match(figure.png, PNG)
  assert.match(figure.text, /^<Figure size \d+x\d+ with 1 Axes>$/)
  assert.deepEqual(plain(figure.extra), {})
  assert.ok(figure.formats().includes('png'))
})

test('D32: tables', async () => {
  const [table] = await results('import pandas as pd\npd.DataFrame({"a": [1, 2, 3], "b": [0.5, None, "x"]})')
  assert.deepEqual(plain(table.data), { a: [1, 2, 3], b: [0.5, null, 'x'] })
  assert.match(table.html, /<table/)
  assert.match(table.text, /a\s+b/)
})

test('D33-D34: other forms', async () => {
  const of = async (code) => (await results(code))[0]
  const latex = await of('from IPython.display import display\ndisplay({"text/latex": "$x^2$"}, raw=True)')
  assert.deepEqual([latex.latex, latex.text, latex.formats()], ['$x^2$', undefined, ['latex']])
  const shown = (code) => of(`from IPython.display import *\n${code}`)
  assert.equal((await shown('HTML("<b>b</b>")')).html, '<b>b</b>')
  assert.equal((await shown('Markdown("# m")')).markdown, '# m')
  assert.match((await shown('SVG("<svg xmlns=\'http://www.w3.org/2000/svg\'/>")')).svg, /<svg/)
  assert.deepEqual(plain((await shown('JSON({"k": [1]})')).json), { k: [1] })
  assert.equal((await shown('Javascript("1")')).javascript, '1')
  assert.deepEqual(plain((await of('{"a": [1, 2], 3: None}')).json), { a: [1, 2], 3: null })
  assert.equal((await of('(1, {2})')).json, undefined)
  const image = 'from PIL import Image\nimage = Image.new("RGB", (6, 6), "red")\n'
  for (const last of ['image', 'image.show()', 'image.save("test.png")']) {
    assert.match((await of(image + last)).png, PNG, last)
  }
})

test('D36: bars', async () => {
  const bar = await chart(`
authors, sales = ["Author A", "Author B", "Author C", "Author D"], [100, 200, 300, 400]
plt.bar(authors, sales, label="Books Sold")
plt.xlabel("Authors")
plt.ylabel("Number of Books Sold")
plt.title("Book Sales by Authors")`)
  const { elements, ...rest } = bar
  assert.deepEqual(rest, {
    type: 'bar', title: 'Book Sales by Authors', x_label: 'Authors', y_label: 'Number of Books Sold', x_unit: null, y_unit: null,
  })
  assert.deepEqual(
    elements,
    ['A', 'B', 'C', 'D'].map((name, index) => ({ label: `Author ${name}`, group: 'Books Sold', value: 100 * (index + 1) })),
  )
})

test('D37: boxes', async () => {
  const box = await chart(`
scores = {"Class A": [85, 90, 78, 92, 88], "Class B": [95, 89, 76, 91, 84, 87], "Class C": [75, 82, 88, 79, 86]}
plt.boxplot(scores.values(), tick_labels=scores.keys(), patch_artist=True)
plt.xlabel("Class")
plt.ylabel("Score")
plt.title("Exam Scores")`)
  assert.deepEqual([box.type, box.title, box.x_label, box.y_label], ['box_and_whisker', 'Exam Scores', 'Class', 'Score'])
  const column = (name) => box.elements.map((element) => element[name])
  assert.deepEqual(column('label'), ['Class A', 'Class B', 'Class C'])
  assert.deepEqual(column('min'), [78, 84, 75])
  assert.deepEqual(column('first_quartile'), [85, 84.75, 79])
  assert.deepEqual(column('median'), [88, 88, 82])
  assert.deepEqual(column('third_quartile'), [90, 90.5, 86])
  assert.deepEqual(column('max'), [92, 95, 88])
  assert.deepEqual(column('outliers'), [[], [76], []])
})

test('D38, D44: lines over time', async () => {
  const line = await chart(`
import datetime, numpy as np
days = [datetime.date(2023, 9, 1) + datetime.timedelta(seconds=86400 * i) for i in range(100)]
plt.plot(days, np.sin(np.arange(100)), label="sin(x)")
plt.plot(days, np.cos(np.arange(100)), label="cos(x)")
plt.xlabel("Time (s)")
plt.ylabel("Amplitude (Hz)")
plt.grid(True)
plt.title("Two waves")`)
  assert.deepEqual(
    [line.type, line.title, line.x_label, line.x_unit, line.y_label, line.y_unit, line.x_scale, line.y_scale],
    ['line', 'Two waves', 'Time (s)', 's', 'Amplitude (Hz)', 'Hz', 'datetime', 'linear'],
  )
  assert.ok(line.x_ticks.every((tick) => typeof tick === 'string' && !Number.isNaN(Date.parse(tick))))
  assert.ok(line.y_ticks.every((tick) => typeof tick === 'number'))
  for (const labels of [line.x_tick_labels, line.y_tick_labels]) assert.ok(labels.every((label) => typeof label === 'string'))
  assert.deepEqual(line.elements.map((element) => [element.label, element.points.length]), [['sin(x)', 100], ['cos(x)', 100]])
  const [x, y] = line.elements[0].points[0]
  assert.deepEqual([new Date(x).toISOString().slice(0, 10), y], ['2023-09-01', 0])
})

test('D39: a logarithmic axis', async () => {
  const log = await chart(`
import numpy as np
x = np.linspace(0, 5, 50)
plt.plot(x, np.exp(x), label="y = e^x")
plt.yscale("log")
plt.xlabel("X-axis")
plt.ylabel("Y-axis (log scale)")
plt.title("Grows")`)
  assert.deepEqual([log.type, log.x_scale, log.y_scale, log.y_unit, log.x_unit], ['line', 'linear', 'log', 'log scale', null])
  assert.ok([...log.x_ticks, ...log.y_ticks].every((tick) => typeof tick === 'number'))
  assert.equal(log.elements[0].points.length, 50)
})

test('D40: a pie', async () => {
  const pie = await chart('plt.pie([90, 10], labels=["Most, by far", "Rest"])\nplt.title("Parts")')
  assert.deepEqual(pie, {
    type: 'pie', title: 'Parts',
    elements: [{ label: 'Most, by far', angle: 324, radius: 1 }, { label: 'Rest', angle: 36, radius: 1 }],
  })
})

test('D41: points', async () => {
  const scatter = await chart(`
import numpy as np
plt.scatter(np.arange(5), np.arange(5), label="few")
plt.scatter(np.arange(10), np.arange(10) / 2, label="many")
plt.xlabel("A")`)
  assert.deepEqual([scatter.type, scatter.title, scatter.x_label, scatter.y_label], ['scatter', null, 'A', null])
  assert.deepEqual(scatter.elements.map((element) => [element.label, element.points.length]), [['few', 5], ['many', 10]])
  assert.deepEqual(scatter.elements[1].points[3], [3, 1.5])
})

test('D42: several in one', async () => {
  const both = await chart(`
figure, (left, right) = plt.subplots(1, 2)
left.plot([1, 2, 3], [4, 5, 6], label="Line")
left.set_title("Left")
left.set_xlabel("Time [s]")
right.scatter([1, 2], [3, 4])
figure.suptitle("Both")`)
  assert.deepEqual([both.type, both.title, both.elements.map((member) => member.type)], ['superchart', 'Both', ['line', 'scatter']])
  const [left, right] = both.elements
  assert.deepEqual([left.title, left.x_unit, left.elements[0].points], ['Left', 's', [[1, 4], [2, 5], [3, 6]]])
  assert.deepEqual([right.title, right.x_label, right.y_label], [null, null, null])
})

test('D43-D44: what is none of these', async () => {
  const unknown = await chart(`
axes = plt.gca()
axes.add_patch(plt.Circle((0.5, 0.5), 0.2))
plt.title("A circle")`)
  assert.deepEqual([unknown.type, unknown.title, unknown.elements], ['unknown', 'A circle', []])
  const categories = await chart('plt.scatter(["a", "b", "c"], [1, 2, 3])')
  assert.deepEqual([categories.x_scale, categories.x_tick_labels], ['categorical', ['a', 'b', 'c']])
})
