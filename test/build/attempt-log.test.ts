/** Logs are closed by a line of mesh, behind whole records whatever their writer left. */
import assert from 'node:assert/strict'
import { appendFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import fc from 'fast-check'
import { closeLog, tailOf } from '../../src/build/attempt-log.ts'
import { encodeLogRecord, LogDecoder, type LogRecord } from '../../src/wire/log-record.ts'

let directory: string
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'mesh-attempt-log-'))
})
after(async () => {
  await rm(directory, { recursive: true })
})

const record = (stream: LogRecord['stream'], text: string): Uint8Array<ArrayBuffer> =>
  encodeLogRecord({ stream, atMs: 5, bytes: Buffer.from(text) })

async function textsOf(path: string): Promise<string[]> {
  const decoder = new LogDecoder()
  const records = decoder.push(await readFile(path))
  assert.equal(decoder.pendingBytes, 0)
  return records.map(({ stream, bytes }) => `${stream} ${Buffer.from(bytes).toString()}`)
}

test('attempt-log: a torn record is cut off, whole ones stay', async () => {
  const whole = Buffer.concat([record('stdout', 'one\n'), record('stderr', 'two\n')])
  const torn = record('stdout', 'three\n')
  for (let length = 0; length <= torn.byteLength; length++) {
    const path = join(directory, `torn-${length}`)
    await writeFile(path, Buffer.concat([whole, torn.subarray(0, length)]))
    const size = await closeLog(path, 'why', { atMs: 7, isWhole: false })
    const texts = await textsOf(path)
    assert.deepEqual(texts, [
      'stdout one\n',
      'stderr two\n',
      ...(length === torn.byteLength ? ['stdout three\n'] : []),
      'mesh why\n',
    ])
    assert.equal(size, (await readFile(path)).byteLength)
  }
})

test('attempt-log: zeros that a full disk left are no records', async () => {
  const path = join(directory, 'zeros')
  await writeFile(path, Buffer.concat([record('stdout', 'one\n'), Buffer.alloc(5000)]))
  await closeLog(path, 'why', { atMs: 7, isWhole: false })
  assert.deepEqual(await textsOf(path), ['stdout one\n', 'mesh why\n'])
})

test('attempt-log: there is a log also of what never began', async () => {
  const path = join(directory, 'never')
  await closeLog(path, 'why', { atMs: 0, isWhole: true })
  assert.deepEqual(await textsOf(path), ['mesh why\n'])
})

test('attempt-log: the tail is the end of what was printed, whatever its pieces', async () => {
  let count = 0
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 60_000 })), { maxLength: 40 }),
      async (pieces) => {
        const path = join(directory, `tail-${count++}`)
        let printed = ''
        await writeFile(path, '')
        for (const [at, [isError, length]] of pieces.entries()) {
          const text = `${at % 10}`.repeat(length)
          printed += text
          await appendFile(path, record(isError ? 'stderr' : 'stdout', text))
        }
        await closeLog(path, 'why', { atMs: 7, isWhole: true })
        assert.equal(await tailOf(path, 8192), printed.slice(-8192))
        await rm(path)
      },
    ),
    {
      numRuns: 50,
      // The last bytes are in a record that begins before the last 64 KiB of the file.
      examples: [
        [
          [
            [false, 58_422],
            [false, 7_065],
            [false, 10],
          ],
        ],
      ],
    },
  )
  assert.equal(await tailOf(join(directory, 'absent'), 8192), '')
})

test('attempt-log: the tail of what came byte by byte is as long', async () => {
  const path = join(directory, 'bytes')
  const printed = Array.from({ length: 20_000 }, (_, at) => `${at % 10}`)
  await writeFile(path, Buffer.concat(printed.map((text) => record('stdout', text))))
  assert.equal(await tailOf(path, 8192), printed.join('').slice(-8192))
})
