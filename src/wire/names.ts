/** The forms of the names that people choose: bounded, printable, safe in paths and in a shell. */
import { z } from 'zod'

/** Any string that travels: no NUL, since it would end a C string early. */
export const text = (lengthMax: number) =>
  z
    .string()
    .max(lengthMax)
    .refine((value) => !value.includes('\0'), 'NUL is not allowed')
    .refine((value) => value.isWellFormed(), 'half of a surrogate pair is not allowed')

export const DerivationName = z
  .string()
  .regex(
    /^(?!__proto__$)[A-Za-z0-9_+][A-Za-z0-9_.+-]{0,127}$/,
    'a name has 1-128 of A-Z a-z 0-9 _ . + -, and begins with none of . -',
  )
/** Not `__proto__`: names are keys of objects, and that one would vanish. */
const IDENTIFIER = /^(?!__proto__$)[A-Za-z_][A-Za-z0-9_]{0,63}$/
const IDENTIFIER_RULE = 'a name has 1-64 of A-Z a-z 0-9 _, and does not begin with a digit'
export const VariableName = z.string().regex(IDENTIFIER, IDENTIFIER_RULE)
export const OutputName = z.string().regex(IDENTIFIER, IDENTIFIER_RULE)
/** A variable (then it is `$NAME`), or a file name with a dot (then it is placed at `./NAME`). */
export const InputName = z
  .string()
  .regex(
    /^(?!__proto__$)(?:[A-Za-z_][A-Za-z0-9_]{0,63}|[A-Za-z0-9_+][A-Za-z0-9_+-]{0,126}\.[A-Za-z0-9_.+-]{0,127})$/,
    'an input is a variable name, or a file name with a dot',
  )
/** `x86_64-linux`, `aarch64-linux`, or `any` for what depends on no machine. */
export const System = z
  .string()
  .regex(/^[a-z0-9_]{1,32}(?:-[a-z0-9_]{1,32})?$/, 'a system looks like "x86_64-linux"')
export const Feature = z
  .string()
  .regex(/^[a-z0-9][a-z0-9_.+-]{0,63}$/, 'a feature has 1-64 of a-z 0-9 _ . + -')
/** What people call an image. */
export const ImageName = z
  .string()
  .regex(
    /^(?!__proto__$)[a-z0-9][a-z0-9_.+-]{0,63}$/,
    'the name of an image has 1-64 of a-z 0-9 _ . + -, and begins with a letter or digit',
  )
/** A program by its bare name, as looked up in PATH. */
export const ToolName = z
  .string()
  .regex(/^(?!__proto__$)[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,63}$/, 'a tool is a bare program name')
export const NodeName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/, 'a node name has 1-63 of A-Z a-z 0-9 _ . -')
/** Base58 of an Ed25519 libp2p peer id. */
export const PeerId = z
  .string()
  .regex(/^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$/, 'a peer id begins with 12D3KooW')
export const RequestId = z.string().regex(/^r-[a-z0-9]{6,32}$/)
export const JobId = z.string().regex(/^j-[a-z0-9]{6,32}$/)
export const AttemptId = z.string().regex(/^a-[a-z0-9]{6,32}$/)
