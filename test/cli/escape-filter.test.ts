/** What a terminal would obey does not reach it, however it is cut; all other bytes do. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { EscapeFilter, type EscapePolicy } from '../../src/cli/text/escape-filter.ts'

// oxlint-disable-next-line no-control-regex
const ALLOWED = /\x1b\[[0-9:;]*[mK]/g
// oxlint-disable-next-line no-control-regex
const FORBIDDEN = /\x1b|\xc2[\x80-\x9f]|[\x00-\x07]/
const TERMINAL: EscapePolicy = { colour: true, isTerminal: true }
const PLAIN: EscapePolicy = { colour: false, isTerminal: false }

function filtered(policy: EscapePolicy, pieces: readonly Uint8Array[]): string {
  const filter = new EscapeFilter(policy)
  return Buffer.concat(pieces.map((piece) => filter.push(piece))).toString('latin1')
}

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1')

const CASES: readonly (readonly [what: string, text: string, terminal: string, plain: string])[] = [
  ['text', 'a\tb\r\nc', 'a\tb\r\nc', 'a\tb\r\nc'],
  [
    'UTF-8',
    'g\xc3\xbcn \xe2\x9c\x94 \xc2\xb5',
    'g\xc3\xbcn \xe2\x9c\x94 \xc2\xb5',
    'g\xc3\xbcn \xe2\x9c\x94 \xc2\xb5',
  ],
  ['a colour', '\x1b[1;31mred\x1b[0m', '\x1b[1;31mred\x1b[0m', 'red'],
  ['erasing a line', '50%\r\x1b[K60%', '50%\r\x1b[K60%', '50%\r60%'],
  ['the clipboard', 'a\x1b]52;c;ZXZpbA==\x07b', 'ab', 'ab'],
  ['a title', 'a\x1b]0;evil\x1b\\b', 'ab', 'ab'],
  ['a cursor report', 'a\x1b[6nb', 'ab', 'ab'],
  ['a cursor movement', 'a\x1b[2Ab\x1b[1;1Hc', 'abc', 'abc'],
  ['another screen', 'a\x1b[?1049hb', 'ab', 'ab'],
  ['a reset', 'a\x1bcb', 'ab', 'ab'],
  ['a character set', 'a\x1b(0b', 'ab', 'ab'],
  ['a device string', 'a\x1bP$q"p\x1b\\b', 'ab', 'ab'],
  ['controls of one byte', 'a\x05\x0e\x07b', 'ab', 'a\x05\x0e\x07b'],
  ['controls in UTF-8', 'a\xc2\x9b6nb\xc2\x9d0;t\x07c', 'abc', 'a\xc2\x9b6nb\xc2\x9d0;t\x07c'],
  ['a string without an end', 'a\x1b]0;x\nb', 'a\nb', 'a\nb'],
  ['an escape inside of another', 'a\x1b[\x1b[31mb', 'a\x1b[31mb', 'ab'],
  ['a line feed inside of a sequence', 'a\x1b[3\nb', 'a\nb', 'a\nb'],
]

for (const [what, text, terminal, plain] of CASES)
  test(`escape-filter: ${what}`, () => {
    assert.equal(filtered(TERMINAL, [bytes(text)]), terminal)
    assert.equal(filtered(PLAIN, [bytes(text)]), plain)
    const single = [...bytes(text)].map((byte) => Uint8Array.of(byte))
    assert.equal(filtered(TERMINAL, single), terminal)
    assert.equal(filtered(PLAIN, single), plain)
  })

test('escape-filter: nothing but colours and erasing is ever left for a terminal', () => {
  const nasty = fc.array(
    fc.constantFrom(
      '\x1b',
      '[',
      ']',
      '?',
      '5',
      ';',
      'm',
      'K',
      'n',
      '\x07',
      '\\',
      'P',
      '\xc2',
      '\x9b',
      'x',
      '\n',
    ),
    { maxLength: 40 },
  )
  fc.assert(
    fc.property(nasty, fc.integer({ min: 1, max: 7 }), (characters, size) => {
      const all = bytes(characters.join(''))
      const pieces: Uint8Array[] = []
      for (let at = 0; at < all.byteLength; at += size) pieces.push(all.subarray(at, at + size))
      const out = filtered(TERMINAL, pieces)
      assert.equal(out, filtered(TERMINAL, [all]))
      assert.doesNotMatch(out.replaceAll(ALLOWED, ''), FORBIDDEN)
    }),
    { numRuns: 2_000 },
  )
})

test('escape-filter: bytes that are no text come through unharmed where no terminal is', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (data) => {
      const clean = data.map((byte) => (byte === 0x1b ? 0 : byte))
      assert.deepEqual(filtered(PLAIN, [clean]), Buffer.from(clean).toString('latin1'))
    }),
  )
})

test('escape-filter: colours stay out of a file unless they are asked for', () => {
  const text = bytes('\x1b[31mred\x1b[0m\x1b[K\x1b]0;t\x07')
  assert.equal(filtered({ colour: true, isTerminal: false }, [text]), '\x1b[31mred\x1b[0m')
  assert.equal(filtered({ colour: false, isTerminal: true }, [text]), 'red\x1b[K')
})
