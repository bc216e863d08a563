/**
 * What a terminal may be sent: colours only where wanted, symbols that its locale can show, and no
 * control sequence that came from elsewhere (a hostile builder writes its own log).
 */
import { styleText } from 'node:util'

/** How to write for one stream. Chosen once in main. */
export interface Style {
  readonly colour: boolean
  /** Whether symbols beyond ASCII can be shown. */
  readonly unicode: boolean
}

export type Tone = 'good' | 'bad' | 'warn' | 'dim' | 'strong'
const FORMATS = { good: 'green', bad: 'red', warn: 'yellow', dim: 'dim', strong: 'bold' } as const

export function paint(style: Style, tone: Tone, text: string): string {
  return style.colour ? styleText(FORMATS[tone], text, { validateStream: false }) : text
}

const SYMBOLS = {
  done: ['✔', '+'],
  cached: ['=', '='],
  failed: ['✘', 'x'],
  running: ['⏵', '>'],
  waiting: ['⏸', '|'],
  cancelled: ['⊘', '-'],
  notice: ['!', '!'],
} as const
export type SymbolName = keyof typeof SYMBOLS

/** Always shown beside a word: never information by a symbol or a colour alone. */
export const symbol = (style: Style, name: SymbolName): string =>
  SYMBOLS[name][style.unicode ? 0 : 1]

export const rule = (style: Style, width: number): string =>
  (style.unicode ? '─' : '-').repeat(Math.max(0, width))

/** NO_COLOR, FORCE_COLOR, CLICOLOR_FORCE and TERM as in https://no-color.org and https://bixense.com/clicolors. */
export function wantsColour(
  choice: string,
  env: Readonly<Record<string, string | undefined>>,
  isTty: boolean,
): boolean {
  if (choice !== 'auto') return choice === 'always'
  const isSet = (name: string): boolean => !['', '0', undefined].includes(env[name])
  if (env['NO_COLOR'] !== undefined && env['NO_COLOR'] !== '') return false
  if (isSet('FORCE_COLOR') || isSet('CLICOLOR_FORCE')) return true
  return isTty && env['TERM'] !== 'dumb'
}

/** Whether the locale of the terminal is UTF-8. */
export function isUtf8Locale(env: Readonly<Record<string, string | undefined>>): boolean {
  const locale = [env['LC_ALL'], env['LC_CTYPE'], env['LANG']].find((value) => value)
  return locale !== undefined && /utf-?8/i.test(locale)
}

const ESCAPES =
  // oxlint-disable-next-line no-control-regex
  /\x1b\[[0-9;:?<=>]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?/g
// oxlint-disable-next-line no-control-regex
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g
// oxlint-disable-next-line no-control-regex
const COLOUR_ESCAPE = /^\x1b\[[0-9;:]*m$/

/** `text` without control sequences; the colours in it stay where `colour` says so. Newlines and tabs stay. */
export function printable(
  text: string,
  options: { readonly colour: boolean } = { colour: false },
): string {
  let clean = ''
  let end = 0
  for (const match of text.matchAll(ESCAPES)) {
    clean += text.slice(end, match.index).replace(CONTROLS, '')
    if (options.colour && COLOUR_ESCAPE.test(match[0])) clean += match[0]
    end = match.index + match[0].length
  }
  return clean + text.slice(end).replace(CONTROLS, '')
}

/** One line of it: for names, reasons and cells. */
export const printableLine = (text: string): string =>
  printable(text).replaceAll(/\s+/g, ' ').trim()

/** Columns that `text` takes on a terminal; colours take none. */
export function displayWidth(text: string): number {
  let width = 0
  for (const character of text.replace(ESCAPES, ''))
    width += characterWidth(character.codePointAt(0) ?? 0)
  return width
}

/** Combining marks take no column, East Asian wide characters and emoji two (Unicode Annex 11, in coarse ranges). */
function characterWidth(code: number): number {
  if (code < 0x300) return 1
  if (code <= 0x36f || (code >= 0x200b && code <= 0x200f) || (code >= 0xfe00 && code <= 0xfe0f))
    return 0
  if (
    (code >= 0x1100 && code <= 0x115f) ||
    (code >= 0x2e80 && code <= 0xa4cf) ||
    (code >= 0xac00 && code <= 0xd7a3) ||
    (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0xfe30 && code <= 0xfe6f) ||
    (code >= 0xff00 && code <= 0xff60) ||
    (code >= 0xffe0 && code <= 0xffe6) ||
    (code >= 0x1f300 && code <= 0x1faff) ||
    (code >= 0x20000 && code <= 0x3fffd)
  )
    return 2
  return 1
}

/** At most `width` columns of `text`, which has no colours yet; what is cut off is shown by a mark. */
export function truncate(style: Style, text: string, width: number): string {
  if (displayWidth(text) <= width) return text
  const mark = style.unicode ? '…' : '~'
  let cut = ''
  let used = 0
  for (const character of text) {
    const next = characterWidth(character.codePointAt(0) ?? 0)
    if (used + next > width - 1) break
    cut += character
    used += next
  }
  return width <= 0 ? '' : cut + mark
}

export function padEnd(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - displayWidth(text)))
}
export function padStart(text: string, width: number): string {
  return ' '.repeat(Math.max(0, width - displayWidth(text))) + text
}
