/** The measurements on this machine: plausible, bounded, and gone without a trace, also when they are ended. */
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../../src/base/clock.ts'
import { measureScaling } from '../../../src/node/setup/measure/measure-scaling.ts'
import { takeMeasurements } from '../../../src/node/setup/measure/take-measurements.ts'

const clock = systemClock()

function emptyDirectory() {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-measure-'))
  return { directory, [Symbol.dispose]: () => rmSync(directory, { recursive: true }) }
}

const optionsFor = (directory: string, signal: AbortSignal) => ({
  directory: join(directory, 'not/there/yet'),
  home: '/nowhere',
  machineRoot: '/nowhere',
  signal,
})

test('measure: all of this machine, with nothing left behind', { timeout: 60_000 }, async () => {
  using place = emptyDirectory()
  const steps: string[] = []
  const { machine, measured } = await takeMeasurements(
    { clock },
    {
      ...optionsFor(place.directory, new AbortController().signal),
      onStep: (step) => {
        steps.push(step)
        assert.equal(readdirSync(place.directory).length, 1, 'all is in one directory')
      },
    },
  )
  assert.deepEqual(readdirSync(place.directory), [])
  assert(steps.length >= 6, steps.join())
  assert(machine.cpus >= 1 && machine.cpus <= availableParallelism())
  assert(machine.disk.freeBytes <= machine.disk.totalBytes)
  assert.deepEqual(measured.scaling[0], { threads: 1, times: 1 })
  assert.equal(measured.scaling.at(-1)?.threads, machine.cpus)
  assert(measured.speed > 0 && measured.busyCpus >= 0)
  const { writeBytesPerS, readBytesPerS, filesPerS, syncMs } = measured.disk
  for (const figure of [writeBytesPerS, readBytesPerS, filesPerS]) assert(figure > 0)
  assert(syncMs >= 0)
  const isolations = measured.starts.map(({ isolation }) => isolation)
  assert.deepEqual(isolations, machine.walls.method === 'none' ? ['host'] : ['host', 'namespace'])
  for (const { error, ms } of measured.starts)
    assert(error === undefined && ms !== undefined, error)
})

test('measure: ended at any step, nothing is left behind', { timeout: 60_000 }, async () => {
  for (const at of ['what others use', 'the disk']) {
    using place = emptyDirectory()
    const ending = new AbortController()
    const reason = new Error('enough')
    const measuring = takeMeasurements(
      { clock },
      {
        ...optionsFor(place.directory, ending.signal),
        onStep: (step) => (step.includes(at) ? ending.abort(reason) : undefined),
      },
    )
    await assert.rejects(measuring, reason, at)
    assert.deepEqual(readdirSync(place.directory), [], at)
  }
})

test('measure: threads that run already are ended, too', { timeout: 60_000 }, async () => {
  const ending = new AbortController()
  const reason = new Error('enough')
  const measuring = measureScaling(2, {
    signal: ending.signal,
    onRound: () => void setImmediate(() => ending.abort(reason)),
  })
  await assert.rejects(measuring, reason)
})

test('measure: a file where the data directory would be', async () => {
  using place = emptyDirectory()
  writeFileSync(join(place.directory, 'not'), '')
  const measuring = takeMeasurements(
    { clock },
    { ...optionsFor(place.directory, new AbortController().signal), onStep() {} },
  )
  await assert.rejects(measuring, { code: 'MESH0104', message: /not is no directory/ })
})
