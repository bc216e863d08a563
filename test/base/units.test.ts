/** Sizes and durations: exact where they are written, readable where they are shown. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { formatDuration, formatSize, parseDuration, parseSize } from '../../src/base/units.ts'

test('units: sizes', () => {
  const good: [string, number][] = [
    ['0 B', 0],
    ['1 B', 1],
    ['8 GiB', 8 * 1024 ** 3],
    ['8GiB', 8 * 1024 ** 3],
    ['1.5 KiB', 1536],
    ['2 TiB', 2 * 1024 ** 4],
  ]
  for (const [text, bytes] of good) assert.equal(parseSize(text), bytes, text)
  for (const text of [
    '',
    '8',
    '8 GB',
    '8 Gib',
    '8  GiB',
    ' 8 GiB',
    '-1 B',
    '1e3 B',
    '.5 GiB',
    '1,5 GiB',
    '8 GiB ',
    '999999999999999 TiB',
  ])
    assert.equal(parseSize(text), undefined, JSON.stringify(text))
})

test('units: durations', () => {
  const good: [string, number][] = [
    ['500ms', 500],
    ['90s', 90_000],
    ['30m', 1_800_000],
    ['1h30m', 5_400_000],
    ['1.5h', 5_400_000],
    ['2d', 172_800_000],
  ]
  for (const [text, ms] of good) assert.equal(parseDuration(text), ms, text)
  for (const text of ['', '1', 'h', '1 h', '1h ', '1hour', '-1s', '1h30', '1e3s'])
    assert.equal(parseDuration(text), undefined, JSON.stringify(text))
})

test('units: what is written in whole units is read back', () => {
  fc.assert(
    fc.property(
      fc.nat(100_000),
      fc.constantFrom(['B', 1], ['KiB', 1024], ['MiB', 1024 ** 2], ['GiB', 1024 ** 3]),
      (count, [unit, bytes]) => {
        assert.equal(parseSize(`${count} ${unit}`), count * bytes)
      },
    ),
  )
  fc.assert(
    fc.property(fc.nat(50), fc.nat(59), fc.nat(59), (h, m, s) => {
      assert.equal(parseDuration(`${h}h${m}m${s}s`), ((h * 60 + m) * 60 + s) * 1000)
    }),
  )
})

test('units: nothing that is read throws, whatever the text', () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      parseSize(text)
      parseDuration(text)
    }),
  )
})

test('units: shown sizes have at most three digits before the unit or one behind the point', () => {
  const shown: [number, string][] = [
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [12.4 * 1024 ** 3, '12.4 GiB'],
    [340 * 1024 ** 2, '340 MiB'],
    [1023.9 * 1024, '1 MiB'],
  ]
  for (const [bytes, text] of shown) assert.equal(formatSize(bytes), text)
  fc.assert(
    fc.property(fc.nat(2 ** 31), (bytes) =>
      assert.match(formatSize(bytes), /^\d{1,4}(?:\.\d)? (?:B|[KMG]iB)$/),
    ),
  )
})

test('units: shown durations', () => {
  const shown: [number, string][] = [
    [0, '0s'],
    [30, '0.1s'],
    [420, '0.4s'],
    [2000, '2s'],
    [59_600, '1m00s'],
    [72_000, '1m12s'],
    [3_599_600, '1h00m'],
    [11_100_000, '3h05m'],
    [187_200_000, '2d04h'],
    [-5, '0s'],
  ]
  for (const [ms, text] of shown) assert.equal(formatDuration(ms), text)
})
