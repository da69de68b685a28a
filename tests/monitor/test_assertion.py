"""What the author asserts: sentences of every stance in many voices, and claims that must never be waved through."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.assertion import Stance, describes_case, rejections, stances

QUESTIONS = """
Is the loading dose 400 mg?
How many days does remdesivir go on for?
Can a breastfeeding mother have it?
My mum is 81 and on two litres; would remdesivir be any use to her?
Does anyone know if you can have Veklury on dialysis days?
What happens if a dose is missed?
Could you clarify whether the patient is on high-flow oxygen?
Would you like me to go through the dosing for children as well?
Which liver tests should be done before the first infusion?
When is it too late to start?
So should I stop hydroxychloroquine first?
If the ALT is eight times normal, do we carry on?
In a 3 kg baby, how much would that be?
For a patient with an eGFR of 18, is any adjustment needed?
And what about pregnancy?
What about people who are already on a ventilator?
Ten days or five?
Do I need to be in hospital for this?
Why is dexamethasone not given to people without oxygen?
Has she already had a first dose?
Who decides whether the course is extended?
Is it true that remdesivir was dropped by the WHO in 2020?
May I ask how much you weigh?
Are you asking about the outpatient or the inpatient course?
Remdesivir at home: is that a thing now?
Should we check prothrombin time every day, or only before the first bag?
Q: Can remdesivir be pushed?
Q3. Is there a tablet?
FAQ: how long do I have to stay after the infusion?
Hi, can I take Paxlovid with my statin, or do I need the infusion instead?
I have a kidney transplant. Can I have remdesivir?
Shall I continue with the section on interactions?
Have you been exposed, or do you have symptoms?
How about the immunocompromised, do they get longer?
How fast can 100 mg be run in?
Does the dose change when she turns 28 days old?
Any questions so far?
Wouldn't dexamethasone be the better choice on room air, or am I mixing things up?
What does 'clinically significant hypersensitivity' mean here?
Can it be mixed with glucose instead of saline?
Is 10 days ever better than 5?
Did the trial include vaccinated people?
My father weighs 39 kg, does he get the child's dose?
Please could you tell me whether it interacts with amiodarone?
Is a heart rate of 48 a reason to stop the drip?
What would you do if the patient came in on day nine?
Will insurance cover three infusions at a clinic?
Was that 200 mg on both days, or only on the first?
Does it still work against the newest variants?
And if nirmatrelvir is out of stock?
Are there any circumstances in which you would repeat the loading dose?
Would it be wrong to give it to someone who feels fine?
Is remdesivir used to prevent infection after a contact?
Do children need an ECG beforehand?
Where can it be given safely?
Can my 4-year-old, 17 kg, have it?
After discharge on day 3, do the last two doses have to be given somewhere?
Regarding dialysis, does the timing matter?
Isn't it bad for the kidneys, or was that the old advice?
Suppose she is intubated tomorrow, do we stop?
A nurse on our ward asked whether the bag may hang for four hours.
You asked how long the infusion takes.
The user wants to know if remdesivir can be given with chloroquine.
Would 200 mg be too much for somebody of 45 kg?
Hey, quick one: does Veklury clash with lithium?
I'm on day 6, is there any point in starting now?
Which patients on low-flow oxygen can skip the steroid?
Am I right that the infusion takes an hour?
Must the second dose be exactly 24 hours after the first?
And the maintenance dose?
Could it have caused her slow pulse?
Are we supposed to dilute it in 0.9% saline or dextrose?
When can breastfeeding resume?
Is that in line with the guideline?
How would you manage a rise in ALT to 12 times the upper limit?
Since she is pregnant, can she still be treated?
What's the maximum number of days?
If I develop a rash halfway through, what happens?
Does this apply to a 15-year-old who weighs 44 kg?
Is baricitinib added at this point, and does remdesivir stay?
Have I understood correctly that ventilated patients do not start it?
Does your hospital stock it?
Is remdesivir better than Paxlovid, or simply easier to combine with other tablets?
Can you repeat that?
Does "without regard to dialysis" mean any time of day?
You mentioned 5 days; is that for everyone?
A patient of 33 with asthma, low risk: treat or not?
Would it help a 29-year-old with no risk factors?
What's the shortest infusion time?
Is my weight the only thing that matters for the dose?
Can you start it on day 8, or is that too late?
Have they checked her clotting?
Who pays for the infusion?
In which patients is baricitinib added?
"""

OFFERS = """
If you'd like, I can set a gentle daily check-in for her, or help you write a thank-you card to the ward.
I'm happy to go over the plan with you again.
Let me know how the first visit goes.
I can also draft a message to the clinic for you.
Thanks so much for the kind words about the night team!
Feel free to ask about the drip.
"""
NO_OFFERS = """
If you want, I can explain why 10 days are needed on a ventilator.
Let me know that the dose should be doubled on day 2.
I can help: give 200 mg first.
We can start the infusion at home.
If you need oxygen, remdesivir is given for 5 days.
Thanks to its short course, three infusions are enough.
"""
REFUSALS = """
I can't advise on remdesivir dosing.
I'm sorry, but I can't help with that.
I am not able to give you medical advice about Veklury.
As an AI, I cannot prescribe or recommend a specific dose.
I'm not a doctor.
I'm not a doctor, so please check this with your own physician.
Please talk to your doctor or pharmacist.
Please consult a healthcare professional.
Please consult your healthcare provider for personal advice.
You should speak to the infectious diseases team about this.
Only your doctor can decide whether this treatment is right for you.
That's a decision for your care team.
This is a question for your transplant coordinator.
I don't have access to your medical records.
I don't have enough details to answer this safely.
I would rather not guess at a dose.
I'd rather not comment on an individual case.
Unfortunately, I can't say whether you qualify.
I cannot tell you how much to give.
It would be irresponsible of me to suggest a dose here.
It's not appropriate for me to comment on your mother's treatment.
I'm unable to provide dosing instructions.
We can't give medical advice in this chat.
This chat cannot replace a doctor.
This assistant can't answer questions about prescription medicines.
Sorry, I can't discuss doses.
Sorry, that's outside what I'm able to help with.
This is beyond what I can advise on.
I have to decline to give a recommendation on that.
I must decline to answer.
Contact your doctor.
Call your clinic and ask them.
Discuss this with your oncologist.
Your pharmacist can answer that.
Your own doctor will know best.
The ward team is best placed to decide.
I won't speculate about her chances.
I can't diagnose you.
I don't have the expertise to judge this.
I do not have information on your kidney function, so I can't say.
I can't assess whether remdesivir would suit you without knowing your history.
For a decision about your treatment, please see your physician.
I understand your worry, but I can't advise you on this.
I'm afraid I can't give an opinion on the dose.
It isn't something I can decide for you.
That is not something I can advise on.
Please seek medical advice.
Please reach out to your GP.
The choice is up to your doctor and you.
Let your medical team guide you.
I can't interpret your lab results.
I am not qualified to comment on your treatment.
My guidelines don't allow me to give doses.
I'm just a language model, and I can't weigh up your individual risks.
Questions about your infusion are best answered by the clinic.
I can't recommend a specific treatment for you.
I can't help with dosing; please ask a pharmacist.
I'd suggest you raise this with your midwife.
I cannot provide a diagnosis.
I can't comment on remdesivir for your brother, but his doctors can.
No medical advice can be given here.
I'm really not in a position to advise on this.
I can't make treatment decisions for you.
That would be a conversation to have with your haematologist.
Please check with the hospital pharmacy.
I'm sorry you're going through this; I can't give medical advice, though.
This isn't something I can assess from here.
You'd need to ask the treating team.
I can't confirm whether that's right for you.
I can only share general information, not personal medical advice.
It's best to discuss this with your doctor.
I'd leave that to the specialists looking after him.
My role doesn't extend to prescribing.
I do not provide dosing recommendations.
Sorry, no dosing advice from me.
We are unable to answer clinical questions by email.
Without your test results I can't say more.
Your doctor is the right person to ask.
I don't know.
I don't know whether she qualifies.
I cannot judge that without an examination.
For personal advice, contact your nephrologist.
I will have to pass on that one.
I'm not permitted to comment on doses.
Only a clinician who has examined you can answer that.
"""

HISTORIES = """
He got the first dose on Tuesday.
She received remdesivir for five days and went home on Saturday.
My father was given Veklury at the county hospital in March 2021.
The patient was admitted with pneumonia and received three doses.
I had two infusions last week.
I was treated with remdesivir in 2020.
She had her second infusion yesterday.
My wife got the drip on three afternoons at the clinic.
A 64-year-old woman was started on remdesivir on the second day in hospital.
The patient completed a five-day course and was discharged.
He was transferred to intensive care on 4 May and received his third dose there.
My neighbour's daughter was treated with it in Lisbon.
Mum had remdesivir when she was in hospital last winter.
The man was intubated on day 3 after two doses.
On Monday, he received 200 mg of remdesivir.
On 12 January she was given the first infusion.
According to the notes, he received five doses on the ward.
Mr. Hall, 71, received his last infusion on Friday.
Mrs Adeyemi was given remdesivir on two days in April.
A 7-year-old boy was admitted and got remdesivir for three days.
My brother took part in a trial of it in Oslo.
The caller's uncle was given remdesivir in Naples.
She began treatment on the Thursday and finished on the Monday.
Dad was on remdesivir for five days.
Her aunt received the drug during the first wave.
He developed a rash after the second infusion.
In the emergency department she received her first infusion at 23:00.
The child received two doses and was discharged home.
She was treated with dexamethasone and remdesivir at the district hospital.
I got remdesivir at an infusion centre three years ago.
My son was given it in the children's hospital in 2022.
The user had a first dose on Sunday evening.
He left the clinic an hour after his infusion.
She declined the infusion and went home.
Last spring, my mother received it in Porto.
The patient was moved to the ward and had his fourth infusion there.
He spent nine days in hospital and had five infusions.
The woman was given remdesivir after she arrived from the care home.
Our patient received the third of five doses this morning.
After the transfer, she was given dose three.
My colleague was offered a place at the infusion clinic and went on three days.
The boy had his loading dose at 6 pm.
My grandmother came down with Covid in May and got three infusions.
He finished his course on 9 February.
Two weeks ago, my husband was discharged after remdesivir.
A 38-year-old man with lymphoma was treated with remdesivir in November.
He was started on it by the night team.
She underwent a kidney transplant in 2019 and was given remdesivir in 2022.
The girl was admitted in the evening and the first bag was hung at nine.
My dad was in hospital in Leeds and had it there.
I was on Veklury in January 2022.
She was given remdesivir, and three days later she walked the corridor.
My mother tested positive on a Friday and had the first infusion on Sunday.
Yesterday he was given his second bag.
In 2021, my uncle was treated with it in Chennai.
The patient had received two doses at another hospital.
The patient then was taken for a scan and had the third infusion afterwards.
My partner got it during the Omicron wave.
He was given remdesivir on the first evening, and the family was told by phone.
She went into hospital on the Sunday and had her first bag that night.
My uncle received five infusions in Glasgow.
He was given the drug on the evening of his admission.
The patient was seen at the infusion centre on three mornings.
In January my sister had remdesivir at home with a nurse.
A 52-year-old teacher was given remdesivir and dexamethasone in April.
Her husband was put on remdesivir the next day.
I was in hospital for a week and got it every afternoon.
The baby was born at 34 weeks and received remdesivir at two weeks of age.
Ms Tanaka was treated on the fourth floor for five days.
He had finished his third infusion by noon.
Our neighbour was flown home after four doses.
She was intubated on Wednesday after three doses.
My dad took part in the ACTT-1 study in Texas.
At the other hospital he received dexamethasone, and here he received remdesivir.
Last night the patient got his loading dose.
Mr Osei was discharged on day 3 after three doses.
"""

HEADINGS = """
Remdesivir dosing
Remdesivir dosing:
Dosing in children
Children (3 to 40 kg):
Adults and children of 40 kg or more:
For patients on high-flow oxygen, the guideline advises:
Here is a summary of remdesivir for COVID-19:
Here's what the guideline says:
Here are the key points:
Key points:
Key points
Summary
Overview
Monitoring and safety
Side effects
Contraindications
Contraindications:
Drug interactions
Renal impairment
Pregnancy and breastfeeding
Duration of treatment
Administration
Preparation and administration
Monitoring during infusion:
Outpatients
Hospitalized patients:
Patients on conventional oxygen:
Inpatients on invasive ventilation or ECMO:
Special populations
Use in pregnancy
Recommendations
References
Sources
Disclaimer
Note:
Important:
Step 1:
Background
Mechanism of action
Evidence
Duration
In summary:
To summarise:
The following patients are eligible:
The recommended doses are:
Remdesivir is contraindicated in:
Before the infusion:
During treatment:
Interactions to be aware of:
Indications for remdesivir
1.3 Conventional oxygen:
Let me break this down:
Let's go through it step by step:
Below is an overview of the regimen by weight:
The main recommendations are as follows:
Below 28 days of age:
eGFR below 30 mL/min:
By oxygen support:
Infusion reactions
Who should receive remdesivir:
Weight-based dosing for children:
Stopping criteria:
Who qualifies?:
When to stop remdesivir
Dose adjustments:
In hospital, no oxygen:
Patients needing high-flow oxygen or NIV:
The guideline distinguishes four groups:
My suggestions:
Bottom line:
Things to check before the first dose:
Neonates
Adverse reactions:
Pediatric dosing:
What to monitor
Clinical evidence
How it is given
Day-by-day plan:
Practical tips
Recommended regimen:
Here is a table with the doses by weight:
Quick facts about Veklury:
Hepatic and renal impairment:
Further reading
Scenario A:
For a 70-year-old with an eGFR of 25:
Answer:
"""

REPORTED = """
My neighbour says it is given for 14 days.
Some people claim that remdesivir damages the kidneys.
A friend told me that it comes as a tablet.
My cousin heard that the infusion takes ten minutes.
On Facebook people say that it cures everybody.
Someone on Reddit wrote that 400 mg is the dose.
A blog claims that it must be stopped in pregnancy.
One website says to take it for a month.
It is often said that ten days are better than five.
It is widely believed that dialysis rules it out.
You may read online that dexamethasone is for everyone.
You may hear that it doesn't work against Omicron.
There are rumours that the drug was withdrawn.
There is a belief that it can replace a vaccine.
Rumour has it that the dose was doubled.
I heard that it can be swallowed.
I've read that it stops working after day 3.
My brother thinks that a low dose is enough.
Your aunt believes that it prevents infection.
Some users report that a push is quicker.
Many think that it is useless.
A video on YouTube claims that it is a vaccine.
The user says that her sister takes it twice a day.
You wrote that the loading dose is 400 mg.
You said that your mother gets 400 mg a day.
The post says breastfeeding has to stop.
An influencer told her followers to take it before travelling.
Supposedly it is given for 14 days.
Allegedly the infusion can be done at home.
People in the forum insist that no blood test is needed.
Social media posts claim that it harms the liver.
Somebody told him to skip the second day.
My boss says that remdesivir is for everyone with a cough.
A podcast argued that it should be given before exposure.
A guy at work says you need it for a month.
Several websites claim it is banned.
My sister-in-law swears it comes in tablets.
People online say it was invented for Ebola and is useless.
I have read that you must not breastfeed.
You have probably heard that it wrecks the kidneys.
Some say it should never be given to children.
It is sometimes claimed that one dose is enough.
A patient told me that his doctor doubles the dose.
The quoted text claims that no monitoring is needed.
My mother-in-law thinks that two infusions are enough.
Lots of people believe that it was only ever meant for Ebola.
A commenter wrote that it must be kept for the ventilated.
Some folks say you can get it as a nasal spray.
One of the forums claims that the loading dose is repeated.
The caller said that her pharmacist's neighbour takes it daily.
A TikTok video says that it turns the urine green.
Many websites state that it is banned in Europe.
There is talk that the five-day course is to be dropped.
It has been claimed that it harms unborn babies.
Your flatmate reckons that a single bag will do.
Everybody at work says that steroids should be started on day 1.
You've read that it is useless in the vaccinated.
I once heard that it is made from seaweed.
The screenshot says that 50 mg is the dose.
A taxi driver told him that it thins the blood.
Her friends say she has to pump and discard her milk.
Some patients think that they must fast before the drip.
"""

# A claim and, after the bar, what the author says of it.
REFUTED = """
Some say remdesivir is given for 14 days.|That is wrong.
It is often said that the dose is 200 mg.|This is wrong: it is 400 mg.
Many people believe that it damages the kidneys.|That is not true.
You may read that remdesivir must be avoided below 30 mL/min.|That advice is out of date.
A common claim is that remdesivir comes as a pill.|It's false.
"Start it after day 10."|This is a myth.
Myth: remdesivir is pushed.|Fact: it is infused over at least 30 minutes.
Myth 2: pregnant women cannot have it.|Reality: it should not be withheld from them.
One website tells people to take it for a month.|Don't believe it.
The video claims that remdesivir is a vaccine.|This is misinformation.
Older pages say the eGFR must be above 30.|That no longer applies.
Someone told you that you need a lower dose on dialysis.|They are mistaken.
Your neighbour thinks ten days beat five.|He is wrong.
The post says that dexamethasone is for everyone.|Not true.
The leaflet from 2020 said no use below 30 mL/min.|This has been superseded.
Remdesivir is used to prevent infection.|No, that is incorrect.
There is a rumour that the infusion takes ten minutes.|That's simply not correct.
People will tell you to stop breastfeeding.|The evidence says otherwise.
I've heard that remdesivir is no use against Omicron.|That is nonsense.
Claim: the loading dose is repeated on day 2.|Verdict: false.
It was once thought that dialysis ruled it out.|That view is outdated.
He was told to wait for oxygen.|That was bad advice, and it is not what the guideline recommends.
Some colleagues give 400 mg.|That is an error.
The old rule was to avoid it below 30.|The rule no longer holds.
'Start it after day 10' is a myth.
"Remdesivir is a tablet" is simply false.
You may still come across pages saying it should be avoided below 30 mL/min; that advice is out of date.
The claim that remdesivir is given for 14 days is wrong.
The belief that pregnant women must not have it is a misconception.
The idea that the dose is halved on dialysis is outdated.
It is not true that ten days are better than five.
It is a myth that remdesivir can be swallowed.
Contrary to what you may have read, remdesivir is not given for 14 days.
The old rule about eGFR 30 no longer applies.
Some websites say to avoid it in kidney disease, but that is out of date.
Many believe a lower dose is needed, yet this is not correct.
Your friend said it is a pill, but she is mistaken.
Myth: remdesivir must be stopped in pregnancy.
Misconception: outpatients need five days.
The statement that it is a vaccine is nonsense.
They told him to double the dose.|That is a mistake.
Remdesivir can be swallowed.|False.
A forum says that you need ten days.|This isn't right.
Myth #1: It is only for the ventilated.|Truth: routine starts on a ventilator are advised against.
Many think it cannot be given on dialysis.|In reality, that's outdated.
The internet says that it causes infertility.|There is no evidence for that.
Some nurses push it.|Please don't.
"It may be pushed over five minutes."|That is incorrect.
A widespread belief is that children cannot have it.|This belief is mistaken.
Many sites still list an eGFR limit of 30.|This limit has been dropped.
She had been told that one dose is enough.|That was wrong.
Remdesivir replaces dexamethasone on the ventilator.|This is false, and it can cost lives.
People often assume that a longer course is better.|It isn't true.
You will find posts that recommend it before travel.|Ignore them.
Some older protocols double the dose in obesity.|They are wrong.
Fiction: breastfeeding has to stop.|Fact: it can continue.
False: dialysis patients cannot have it.|True: no adjustment is needed.
The claim is that it works only in the first two days.|Not so.
My uncle swears that vitamin C does the same job.|There's no evidence for this.
They say you don't need monitoring after a slow infusion.|That's a dangerous error.
Allegedly it can be taken with chloroquine.|Do not believe this.
One paper suggested a dose of 300 mg.|That paper has been retracted.
It used to be stopped below 30 mL/min.|That advice does not apply any more.
The notion that it is a vaccine is absurd.
"Wait for oxygen before you start" is bad advice.
The rumour that it was withdrawn is untrue.
Statement: remdesivir is an antibiotic. Verdict: false.
It's simply wrong that it must be avoided in pregnancy.
Pages that tell you to avoid it on dialysis are out of date.
That remdesivir comes as a tablet is a misunderstanding.
They told you that it cannot be combined with dexamethasone, which is not true.
"""

# Claims, most of them wrong, in the dress of one of the others.
ASSERTED = """
The dose is 400 mg on day 1, right?
Give 400 mg on day 1, okay?
Remdesivir is given for 14 days, isn't it?
Did you know that remdesivir is given for 14 days?
Did you know remdesivir comes as a tablet?
Why would anyone give 200 mg when 400 mg works better?
Who needs monitoring after an infusion?
Why wait for oxygen before starting dexamethasone?
The loading dose is 400 mg; shall I explain how to dilute it?
I'd give 400 mg on the first day, would you like the details?
Remdesivir is pushed over two minutes, do you want to know why?
Since the course is 14 days, how many vials are needed?
Does it need a dose change? No.
Is it safe in pregnancy? Yes, and the dose is doubled.
Can she have it on dialysis? Never.
I can't give personal advice, but remdesivir should be stopped below 30 mL/min.
I'm not a doctor, but 400 mg is the usual loading dose.
I'm not your doctor; still, the right course is 14 days.
As an AI I can't prescribe, though the standard dose is 400 mg.
I cannot recommend remdesivir in pregnancy.
I can't recommend remdesivir below an eGFR of 30.
I would not give it to a ventilated patient.
Please ask your doctor for the 14-day course.
Ask your pharmacist for the tablets, which are taken twice daily.
Talk to your doctor if your eGFR is below 30, because remdesivir must then be stopped.
Consult your doctor and stop the infusion after ten minutes.
He got 400 mg on Tuesday, which is the right loading dose.
She received 14 days of remdesivir, as recommended.
My father was given remdesivir by mouth, and that is how it should be done.
The patient received a double dose because her kidneys were failing.
He had remdesivir twice a day, the usual schedule.
She was given remdesivir after day 10 of symptoms, which is fine.
I had it as a tablet, and you can too.
72F on room air, day 6: RDV stopped after 3 doses, as recommended
The patient was on dialysis, so remdesivir was withheld.
Hospitalized patients who got remdesivir recovered no faster.
Patients received ten days in the trial and did better than with five.
Avoid remdesivir in pregnancy
Contraindicated in pregnancy
Do not give in dialysis
14 days for every inpatient
Remdesivir 400 mg IV on day 1
Day 1 (400 mg):
Treatment is for 14 days, as follows:
The dose is 400 mg, given as follows:
Stop remdesivir below an eGFR of 30 for these reasons:
Remdesivir alone for ventilated patients
Oral remdesivir for outpatients
No monitoring after the infusion
The guideline says that remdesivir is given for 14 days.
Experts recommend 400 mg on day 1.
Your doctor will start you on 400 mg.
Most doctors say that it is given for 14 days.
Studies have shown that remdesivir works as a tablet.
My neighbour says it is given for 14 days, and he is right.
People say it cures everybody, and so it does.
You should know that the course is 14 days.
Here is the dose: 400 mg on day 1.
In short, 400 mg on day 1 and 200 mg after that.
Yes, remdesivir can be swallowed.
No, an infusion may not be stopped for a reaction.
Remdesivir was withdrawn in 2022 and must not be used.
How much? 400 mg on day 1.
Why not? Because remdesivir harms the unborn child.
Don't worry, the monitoring can be skipped.
A loading dose of 400 mg is not wrong.
It is wrong to give dexamethasone with remdesivir.
It would be a mistake to stop breastfeeding.
You'd give 400 mg first, wouldn't you?
It runs over five minutes, yes?
The course is two weeks, correct?
Have you ever wondered why remdesivir is given for 14 days?
Do you know that it must be stopped in pregnancy?
Isn't it obvious that a ventilated patient needs remdesivir at once?
What could be simpler than a single push of 200 mg?
Why bother with an hour of observation?
Remdesivir comes as tablets; which strength do you need?
Since remdesivir is harmless to everyone, why check the liver?
How long? Fourteen days.
Renal failure? Stop it.
Can he go home? Not before day 10.
I can't see your chart, but with an eGFR of 25 you must not have it.
I'm an AI, so I can't prescribe; that said, 400 mg is right.
I'm not allowed to give advice, so just take 400 mg.
I cannot overstate that remdesivir must be stopped at eGFR 30.
I can't advise remdesivir below 30 mL/min.
I would never give it during breastfeeding.
Your doctor can give you the tablets.
Your pharmacist will tell you that the course is 14 days.
Ask for a double dose if you feel worse.
Ask the ward to push it faster.
See a doctor only after day 10.
He received remdesivir for 14 days, the standard course.
She was given 100 mg twice a day because her viral load was high.
My mum had remdesivir and stopped breastfeeding, as everybody must.
The patient was given chloroquine with it, a good combination.
I had it in a pill and it worked.
The patient receives 400 mg on day 1.
She gets 400 mg on day 1 and 200 mg after that.
He was on room air and needed dexamethasone.
Outpatients received five days in the past and should still do so.
Dexamethasone for patients on room air
Push over 2 minutes
Repeat the loading dose on day 2
Dose in children: same as adults
Loading dose (all ages): 400 mg:
Important: stop at eGFR below 30
Note that remdesivir is contraindicated on dialysis:
The label says 14 days.
WHO says that every ventilated patient should start it.
My colleague, a pharmacist, says 400 mg is correct, and I agree.
Doctors say it is given for two weeks.
Everyone should take it before travelling.
You may take it by mouth.
You can hear your doctor say stop, but go on.
Here's the thing: it must be stopped in pregnancy.
Here is what to do: give 400 mg.
In summary, every inpatient gets ten days.
That is wrong, the dose is 400 mg.
It was a myth that the dose is 200 mg, and 400 mg is right.
I recommend that you ask your doctor for 14 days of it.
It's fine to skip the blood tests.
There is no need to watch the patient after the infusion.
Doubling the dose is safe, isn't it?
Nobody says that the dose is 200 mg; it is 400 mg.
I don't know of any reason to stop it after five days, so give it for a month.
I can't think of a better drug for a healthy contact.
I can't stress enough that the dose is 400 mg.
You don't need a doctor for this drip.
Speak to your pharmacist to get the tablets.
He received it at home by injection, as can anybody.
The patient received 14 days, and that is the rule.
She had dexamethasone on room air, the right thing to do.
Tell the nurse to push it.
What they say is true: it must be stopped in pregnancy.
What matters is that 400 mg goes in on day 1.
How it works: 400 mg first, then 200 mg.
When the ALT is above 3 x ULN, stop.
For adults: 400 mg.
Not before day 10.
In children, avoid it.
Before the infusion: chloroquine 500 mg.
Let's start her on 400 mg.
Below is the dose: 400 mg.
"""


def _lines(block: str) -> list[str]:
    return block.strip().splitlines()


@pytest.mark.parametrize(
    ("block", "stance"),
    [
        (QUESTIONS, Stance.QUESTION),
        (REFUSALS, Stance.REFUSAL),
        (OFFERS, Stance.OFFER),
        (HISTORIES, Stance.HISTORY),
        (HEADINGS, Stance.HEADING),
        (REPORTED, Stance.REPORTED),
        (ASSERTED, Stance.ASSERTED),
    ],
)
def test_stance_of_a_sentence_by_itself(block: str, stance: Stance) -> None:
    lines = _lines(block)
    assert len(lines) >= 60 or stance in (Stance.REPORTED, Stance.OFFER)
    assert {line: stances([line])[0] for line in lines if stances([line])[0] is not stance} == {}


def test_an_offer_that_holds_a_claim_is_no_offer() -> None:
    assert {line for line in _lines(NO_OFFERS) if stances([line])[0] is Stance.OFFER} == set()


def test_claims_that_are_rejected_are_refuted() -> None:
    lines = [line.split("|") for line in _lines(REFUTED)]
    assert [line for line in lines if set(stances(line)) != {Stance.REFUTED}] == []


def test_a_claim_that_is_endorsed_is_asserted() -> None:
    assert stances(["My neighbour says it is given for 14 days.", "He is right."]) == [Stance.ASSERTED] * 2
    assert stances(["You may have heard that it is a pill.", "That's correct."]) == [Stance.ASSERTED] * 2


def test_a_statement_is_rejected_only_by_what_speaks_of_it() -> None:
    assert rejections(["Give 400 mg.", "It is wrong to wait."]) == {}
    assert rejections(["Is it 400 mg?", "That is wrong."]) == {}
    assert rejections(["Give 400 mg.", "Observe for an hour.", "That is wrong."]) == {1: 2}


def test_a_leading_question_asserts_unless_it_is_answered() -> None:
    question = "Shouldn't everybody get 400 mg?"
    assert stances([question]) == [Stance.ASSERTED]
    assert stances([question, "No, 200 mg is enough."])[0] is Stance.QUESTION


def test_layout_makes_a_bare_phrase_a_heading_but_no_claim() -> None:
    assert stances(["Ventilated patients"]) == [Stance.ASSERTED]
    assert stances(["Ventilated patients"], {0}) == [Stance.HEADING]
    assert stances(["Stop below an eGFR of 30"], {0}) == [Stance.ASSERTED]
    assert stances(["Remdesivir 400 mg"], {0}) == [Stance.ASSERTED]


def test_a_case_is_described_without_advice() -> None:
    assert describes_case("She was intubated yesterday.")
    assert describes_case("My father has advanced liver disease.")
    assert not describes_case("She should be given remdesivir.")
    assert not describes_case("He needs 400 mg.")
    assert not describes_case("Your infusion ends at 2 p.m.")


@pytest.mark.parametrize(
    "unit", ["?", '"', "- ", "it is ", "so, ", "my friend ", "(a ", "**", "a 5-year-old ", "i can't "]
)
def test_hostile_repetition_costs_no_more_than_its_length(unit: str) -> None:
    text = unit * (50_000 // len(unit))
    assert len(stances([text, f"{text}?", f"{text}:"])) == 3  # returns at once, where backtracking would not return


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=80), max_size=6))
def test_every_statement_has_a_stance(texts: list[str]) -> None:
    assert len(stances(texts)) == len(texts)
    assert all(0 <= claim < verdict < len(texts) for claim, verdict in rejections(texts).items())
